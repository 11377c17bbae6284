"""The verbs and the lock of a lake in a bucket, on a real S3 server."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from etl import engine
from lake import bucket, release, settings, storage
from lake.bucket import Lease, LockedError
from tests.gateway import Gateway
from tests.unit.lake.processes import at_once

pytestmark = pytest.mark.usefixtures("store")


def beyond(gateway: Gateway, path: Path) -> Path:
    """The same object where the server keeps it."""
    return gateway.folder / str(path).removeprefix("s3://")


def test_what_is_written_is_there_and_can_be_replaced(store: Gateway) -> None:
    path = settings.lake() / "a" / "b.json"
    assert storage.read(path) is None
    storage.write_whole(path, b"one")
    storage.write_whole(path, b"two")
    assert storage.read(path) == beyond(store, path).read_bytes() == b"two"


def test_what_has_to_be_new_replaces_nothing() -> None:
    path = settings.lake() / "a.json"
    storage.write_whole(path, b"one", new=True)
    with pytest.raises(FileExistsError):
        storage.write_whole(path, b"two", new=True)
    assert storage.read(path) == b"one"


def test_what_is_moved_has_its_final_name_and_its_content(store: Gateway) -> None:
    source, target = settings.lake() / "_stage" / "x y+ä.parquet", settings.lake() / "part.parquet"
    storage.write_whole(source, b"rows" * 1000)
    storage.move(source, target)
    assert beyond(store, target).read_bytes() == b"rows" * 1000


def test_a_tree_lists_all_below_and_nothing_beside_it() -> None:
    lake = settings.lake()
    for name in ("t/2.parquet", "t/deep/1.parquet", "t/other.crc", "tt/3.parquet"):
        storage.write_whole(lake / name, b"x")
    assert storage.tree(lake / "t", ".parquet") == [lake / "t" / "2.parquet", lake / "t" / "deep" / "1.parquet"]
    storage.remove_tree(lake / "t")
    assert storage.tree(lake / "t", "") == []
    assert storage.tree(lake / "tt", ".parquet") == [lake / "tt" / "3.parquet"]
    storage.remove_tree(lake / "never there")


def test_the_newest_commit_is_found_again_after_more_and_after_it_is_gone(store: Gateway) -> None:
    log = settings.lake() / "t" / "_delta_log"
    assert storage.newest(log, ".json") is None
    for number in range(3):
        storage.write_whole(log / f"{number:020}.json", b"x" * (number + 1))
    storage.write_whole(log / "_last_checkpoint", b"x")
    storage.write_whole(log / f"{2:020}.checkpoint.parquet", b"x")
    storage.write_whole(log / "_staged" / f"{9:020}.json", b"x")
    third = storage.newest(log, ".json")
    assert (third.name, third.size) == (f"{2:020}.json", 3)
    assert storage.newest(log, ".json") == third
    storage.write_whole(log / f"{3:020}.json", b"")
    assert (storage.newest(log, ".json").name, storage.newest(log, ".json").size) == (f"{3:020}.json", 0)
    for number in (3, 2):
        beyond(store, log / f"{number:020}.json").unlink()
    assert storage.newest(log, ".json").name == f"{1:020}.json"
    assert storage.newest(log, ".json").mark != third.mark


def test_the_mark_of_a_commit_changes_with_its_content() -> None:
    log = settings.lake() / "t" / "_delta_log"
    storage.write_whole(log / f"{0:020}.json", b"one")
    before = storage.newest(log, ".json")
    storage.write_whole(log / f"{0:020}.json", b"two")
    assert storage.newest(log, ".json").mark != before.mark


def test_parquet_is_read_by_footer_by_arrow_and_by_duckdb() -> None:
    import duckdb

    path = settings.lake() / "t" / "one.parquet"
    with path.open("wb") as file:
        pq.write_table(pa.table({"n": [1, 2, 3]}), file)
    assert storage.footer(path).num_rows == 3
    assert storage.dataset([path]).to_table().to_pydict() == {"n": [1, 2, 3]}
    with storage.readable(duckdb.connect(), settings.lake()) as con:
        assert con.execute("SELECT sum(n) FROM read_parquet(?)", [[str(path)]]).fetchall() == [(6,)]


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_many_threads_read_one_file_through_duckdb(home: Path, compression: str) -> None:
    """Each through the same handle, at a position of its own."""
    import duckdb

    path, local = settings.lake() / "t" / "one.parquet", home / "one.parquet"
    numbers = np.random.default_rng(1).integers(0, 1 << 40, (4, 1_000_000))
    pq.write_table(
        pa.table(dict(zip("abcd", numbers, strict=True))), local, row_group_size=50_000, compression=compression
    )
    storage.write_whole(path, local.read_bytes())
    query = "SELECT count(*), sum(a), sum(b), sum(c), sum(d) FROM read_parquet(?)"
    expected = duckdb.execute(query, [[str(local)]]).fetchall()
    for _ in range(5):
        with storage.readable(duckdb.connect(config={"threads": 8}), settings.lake()) as con:
            assert con.execute(query, [[str(path)]]).fetchall() == expected


def test_a_thread_reads_from_where_it_sought_itself() -> None:
    path = settings.lake() / "t" / "bytes"
    storage.write_whole(path, bytes(range(256)))
    with path.open("rb") as file, ThreadPoolExecutor(1) as other:
        file.seek(10)
        other.submit(file.seek, 100).result()
        assert file.read(2) == bytes((10, 11))
        assert other.submit(file.read, 2).result() == bytes((100, 101))
        assert file.tell() == 12


def test_an_object_reads_like_a_file(home: Path) -> None:
    content = bytes(range(256)) * 4000
    path = settings.lake() / "t" / "bytes"
    storage.write_whole(path, content)
    local = home / "bytes"
    local.write_bytes(content)
    with path.open("rb") as remote, local.open("rb") as other:
        for offset, whence, length in (
            (10, 0, 5),
            (-3, 1, 300_000),
            (0, 1, 10),
            (-7, 2, 100),
            (5, 2, 10),
            (0, 0, -1),
            (1_000_000, 0, 0),
            (0, 0, None),
        ):
            assert remote.seek(offset, whence) == other.seek(offset, whence)
            assert remote.read(length) == other.read(length)
            assert remote.tell() == other.tell()
    with pytest.raises(FileNotFoundError):
        (settings.lake() / "never" / "there").open("rb")


# --- the lock


@pytest.fixture
def lock(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a lock; a lease runs out after 1.5 s."""
    monkeypatch.setattr(bucket, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(bucket, "POLL_SECONDS", 0.05)
    return settings.lake() / "_locks" / "one.lock"


def test_a_lock_that_is_held_is_not_given_out_however_long_it_is_held(lock: Path) -> None:
    with Lease(lock, 1):
        bucket._holders.clear()  # as if the other were another process
        begun = time.monotonic()
        with pytest.raises(LockedError), Lease(lock, 4):
            pass
        assert time.monotonic() - begun > 3.9  # more than two lease times: it was renewed
    with Lease(lock, 1):
        pass


def test_threads_of_a_process_wait_for_each_other(lock: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with storage.locked(lock, 20):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (inside, most) == (0, 1)


COUNTER = """
import sys, time
from lake import bucket, settings, storage
bucket.POLL_SECONDS = 0.02
path = settings.lake() / "counter"
for _ in range(int(sys.argv[1])):
    with storage.locked(settings.lake() / "_locks" / "counter.lock", 60):
        count = int(storage.read(path) or b"0")
        time.sleep(0.005)
        storage.write_whole(path, str(count + 1).encode())
"""


def test_processes_that_count_together_lose_no_count() -> None:
    with at_once(COUNTER, (12,), (12,), (12,)):
        pass
    assert storage.read(settings.lake() / "counter") == b"36"


HOLDER = """
import time
from lake import settings, storage
with storage.locked(settings.lake() / "_locks" / "one.lock", 5):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_process_is_free_once_its_lease_ran_out(lock: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=settings.CHECKOUT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    with pytest.raises(LockedError), Lease(lock, 0.3):
        pass
    begun = time.monotonic()
    with Lease(lock, 10):
        assert time.monotonic() - begun > 1.4


def test_a_holder_who_was_passed_over_does_not_take_the_lock_back(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that slept wakes up with a lease that somebody else took."""
    asleep = Lease(lock, 1)
    monkeypatch.setattr(asleep, "_renew", lambda: None)
    with asleep:
        bucket._holders.clear()
        with Lease(lock, 10) as other:
            assert not asleep._put(b"mine again", asleep._tag)
            held = storage.read(lock)
            asleep.__exit__()
            assert storage.read(lock) == held
            assert other._put(held, other._tag)
        asleep._inside.acquire()  # given back above; the end of the block gives it back once more


def test_a_put_whose_answer_was_lost_counts_as_made(lock: Path) -> None:
    """The client tries again on its own, and the store refuses the second try, as the first had been made."""
    lease = Lease(lock, 1)
    assert lease._put(b"me", None)
    stale = lease._tag
    assert lease._put(b"me 1", stale)
    assert lease._put(b"me 1", stale)
    assert not lease._put(b"me 2", stale)


def test_a_release_is_never_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    release.write({"gold.guest_activity": 1}, "2017-03-02")
    monkeypatch.setattr(release, "numbers", list)  # as seen by a writer whose lease ran out while it slept
    with pytest.raises(FileExistsError):
        release.write({"gold.guest_activity": 2}, "2017-03-03")


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ("gs://lake/one", "gs://lake/one is neither a folder nor s3"),
        ("s3://lake", "does not name a folder in a bucket"),
        ("s3:///one", "does not name a folder"),
    ],
)
def test_a_place_that_can_hold_no_lake_is_refused(root: str, told: str) -> None:
    with pytest.raises(bucket.StorageError, match=told):
        storage.to_path(root)


def test_an_endpoint_for_s3_alone_is_everyone_s(store: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", store.environment()["AWS_ENDPOINT_URL"])
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    table = str(settings.lake() / "one")
    DeltaTable.create(table, pa.schema([("x", pa.int64())]))
    assert DeltaTable(table).version() == 0
    engine.session().range(3).write.parquet(str(settings.lake() / "two"))
    assert {path.name for path in beyond(store, settings.lake()).iterdir()} == {"one", "two"}
