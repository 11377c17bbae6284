"""The whole job with its lake in a bucket: the same tables as on a file system, on both engines, and features out of
it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from etl import table_reader
from etl.commits import committer
from etl.sources.landing import LandingError
from features.offline.labels import LabelError
from features.training import sandbox
from lake import delta, release, settings, storage
from lake.commits.delta_rs import DeltaRs
from millrace import cli, maintenance, pipeline
from tests.carrying import FIRST, THEN, WRITER, carry, differing, keep_only, land, land_more, quarantined
from tests.certificates import Certificates
from tests.cinema import COLUMNS, Cinema, ticket
from tests.components import Stack
from tests.conftest import command
from tests.gateway import BUCKET, Gateway
from tests.integration.bucket.conftest import mirror, served, use
from tests.landing import rows, versions
from tests.spark import running
from tests.unit.features.conftest import Lake, activity
from tests.unit.lake.processes import at_once


@pytest.fixture(scope="package")
def spark_on_s3(
    gateway: Gateway, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A Spark that can read and write the bucket: over TLS, by a second gateway before the same folder."""
    encrypted = Gateway.start(gateway.folder, certificates.server)
    environment = {**encrypted.environment(), "AWS_CA_BUNDLE": str(certificates.authority)}
    with running(
        tmp_path_factory.mktemp("spark-s3"), lambda patch: use(patch, environment, f"s3://{BUCKET}/spark")
    ) as (_, url):
        yield url
    encrypted.stop()


@pytest.fixture(scope="package")
def sail_on_s3(gateway: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Sail apart, as a container runs it: it has credentials for the bucket, and none of our files."""
    with Stack(tmp_path_factory.mktemp("sail-s3"), gateway.environment()) as stack:
        yield stack.start("engine").engine_url


@pytest.fixture(params=["sail", pytest.param("spark", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> str:
    """MILLRACE_ENGINE of one of the engines; tests/compose has a Sail apart."""
    return "sail" if request.param == "sail" else str(request.getfixturevalue("spark_on_s3"))


def test_tables_accounts_and_quarantine_are_those_of_a_file_system(
    cinema: Cinema,
    home: Path,
    store: Gateway,
    engine: str,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """With Sail the landing zone lies in the bucket too."""
    if request.node.callspec.params["engine"] == "spark":
        keep_only(monkeypatch, "gold.movie_demand", "gold.guest_profile")
    lake, folder = str(settings.lake()), served(store)
    zone = f"{lake}-landing" if engine == "sail" else str(cinema.root)
    land(cinema)
    expected = carry(monkeypatch, "sail", home / "local", FIRST)
    rejected = quarantined()
    put_landing(monkeypatch, cinema, zone)
    assert carry(monkeypatch, engine, lake, FIRST) == expected
    assert differing(home / "local", folder) == []
    assert not [path for path in folder.glob("*/*/_stage/**/*") if path.is_file()]
    assert isinstance(
        committer(), DeltaRs
    )  # delta-spark would write over a version that another writer made in between
    monkeypatch.setenv("MILLRACE_LAKE", str(folder))
    assert quarantined() == rejected
    before = versions()
    carry(monkeypatch, engine, lake, FIRST)
    monkeypatch.setenv("MILLRACE_LAKE", str(folder))
    assert versions() == before
    land_more(cinema)
    put_landing(monkeypatch, cinema, zone)
    accounts = carry(monkeypatch, engine, lake, THEN)
    monkeypatch.setenv("MILLRACE_LANDING", str(cinema.root))
    assert accounts == carry(monkeypatch, "sail", home / "local", THEN)
    assert differing(home / "local", folder) == []


def put_landing(monkeypatch: pytest.MonkeyPatch, cinema: Cinema, zone: str) -> None:
    """Use this landing zone from now on, holding what the cinema's holds."""
    if zone != str(cinema.root):
        mirror(cinema.root, zone)
    monkeypatch.setenv("MILLRACE_LANDING", zone)


DAYS = ("2017-03-01", "2017-03-04")
BOOKINGS = [(1, 3.0), (2, 3.0), (5, 9.0), (8, 2.0), (9, 2.0)]
"""The bookings and what was paid, in the end."""
HEADER = ",".join(COLUMNS["tickets"].names)
LINE = "1,10,{booking},1,2,{value},0.5,10,2017-03-0{day} 10:00:00"


def lines(*rows: str) -> bytes:
    return "".join(f"{row}\n" for row in (HEADER, *rows)).encode()


def test_late_and_corrected_files_duplicates_and_refusals_are_those_of_a_file_system(
    cinema: Cinema, home: Path, store: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_only(monkeypatch, "silver.tickets")
    lake, folder = str(settings.lake()), served(store)
    zone = f"{lake}-landing"

    def run_both(*refused: str) -> None:
        """The same accounts, rejected rows and tables, or the same refusal."""
        results = []
        for landing, to in ((str(cinema.root), home / "local"), (zone, lake)):
            put_landing(monkeypatch, cinema, landing)
            try:
                results.append((carry(monkeypatch, "sail", to, DAYS), ""))
            except LandingError as error:
                results.append(({}, str(error)))
            monkeypatch.setenv("MILLRACE_LAKE", str(folder) if to == lake else str(to))
            results.append(quarantined())
        assert results[:2] == results[2:]
        assert [text for text in refused if text in results[0][1]] == [*refused]
        assert bool(results[0][1]) == bool(refused)
        assert differing(home / "local", folder) == []

    def put(name: str, *rows: str) -> Path:
        path = cinema.root / "tickets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lines(*rows))
        return path

    put("2017-03-02/a b+%.csv", LINE.format(booking=5, value=1, day=2), LINE.format(booking=6, value="dear", day=2))
    run_both()
    for name in ("a b+%.csv", "the same again.csv"):
        values = {5: 9, 6: "cheap", 7: '"1"1'}
        put(
            f"2017-03-02/{name}",
            *(LINE.format(booking=booking, value=value, day=2) for booking, value in values.items()),
        )
    put("2017-03-03/late.csv", LINE.format(booking=8, value=2, day=1))
    put("2017-03-03/.half.csv", "torn")
    run_both()
    bad = put("2017-03-03/bad.csv", LINE.format(booking=9, value='"2', day=3), LINE.format(booking=10, value=2, day=3))
    run_both("tickets/2017-03-03/bad.csv cannot be read as CSV (line 2 opens a quote", "in column paid)")
    bad.write_bytes(lines(LINE.format(booking=9, value='"2"', day=3)))
    run_both()
    monkeypatch.setenv("MILLRACE_LAKE", str(folder))
    assert [(row["booking_id"], float(row["paid"])) for row in rows("silver.tickets")] == BOOKINGS


FEATURES = f"""
import json, pandas as pd
from feast import FeatureStore
store = FeatureStore({str(settings.CHECKOUT / "features" / "feast_repo")!r})
names = ["guest_activity:paid_7d", "guest_profile:age_band", "movie_demand:sold_28d"]
entities = [{{"guest_id": n, "movie_id": n}} for n in (1, 2, 3)]
online = store.get_online_features(features=names, entity_rows=entities).to_dict()
instants = pd.to_datetime(["2017-03-02 12:00", "2017-03-03 00:00"], utc=True)
labels = pd.DataFrame({{"guest_id": [1, 2], "movie_id": [1, 2], "event_timestamp": instants}})
offline = store.get_historical_features(labels, names).to_df().astype(str).to_dict("records")
print(json.dumps([online, offline], default=str))
"""


@pytest.mark.slow
def test_features_are_served_from_it_by_the_commands_and_by_feast(
    cinema: Cinema, home: Path, store: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run in a process of its own, as a user starts it; the other commands in this one, whose imports are paid."""
    land(cinema)
    bucket, answers = str(settings.lake()), {}
    (home / "bucket").mkdir()
    (home / "bucket" / "landing").symlink_to(home / "landing")
    done = command("run", "--start", FIRST[0], "--end", FIRST[1], home=home / "bucket")
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setenv("MILLRACE_HOME", str(home / "bucket"))
    for name in ("serve", "tables"):
        assert cli.main([name]) == 0
    carry(monkeypatch, "sail", home / "local" / "lake", FIRST)
    monkeypatch.setenv("MILLRACE_HOME", str(home / "local"))
    pipeline.serve()
    for name, lake in (("local", str(home / "local" / "lake")), ("bucket", bucket)):
        monkeypatch.setenv("MILLRACE_LAKE", lake)
        environment = {**os.environ, "MILLRACE_HOME": str(home / name), "PYTHONPATH": str(settings.CHECKOUT)}
        read = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", FEATURES],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert read.returncode == 0, read.stderr
        answers[name] = json.loads(read.stdout.splitlines()[-1])
    assert answers["bucket"] == answers["local"]
    assert answers["local"][0]["paid_7d"][0] is not None
    assert not (home / "bucket" / "lake").exists()


def test_labels_as_sql_read_the_release_and_nothing_else(
    store: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lake in a bucket, too: no file of the machine, no other object, not even one of the lake's own."""
    lake, remote = Lake(), str(settings.lake())
    monkeypatch.setenv("MILLRACE_LAKE", str(served(store)))
    lake.write("guest_activity", [activity(1, "2017-01-02"), activity(2, "2017-01-05")])
    made = lake.release("guest_activity")
    (tmp_path / "secret.txt").write_text("nobody may read this")
    (part,) = (path.name for path in (served(store) / "gold" / "guest_activity").glob("*.parquet"))
    monkeypatch.setenv("MILLRACE_LAKE", remote)
    assert sandbox.select("SELECT guest_id FROM gold.guest_activity ORDER BY ALL", made)["guest_id"].to_pylist() == [
        1,
        2,
    ]
    for path in (f"{tmp_path}/secret.txt", f"{remote}/_releases/1.json", f"{remote}/gold/guest_activity/{part}"):
        for attack in (
            f"SELECT * FROM read_text('{path}')",
            f"SELECT * FROM read_parquet('{path}')",
            f"SELECT * FROM glob('{path}*')",
        ):
            with pytest.raises(LabelError, match="Permission Error") as caught:
                sandbox.select(attack, made)
            assert "nobody may read this" not in str(caught.value)


def test_two_processes_commit_at_once_and_lose_no_row(store: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with at_once(WRITER, (0, 5, "one"), (100, 5, "other")):
        pass
    monkeypatch.setenv("MILLRACE_LAKE", str(served(store)))
    assert sorted(row["visit_id"] for row in rows("silver.visits")) == [*range(5), *range(100, 105)]
    assert versions() == {"silver.visits": 10}


def test_tables_are_tidied_up_and_released_versions_stay_readable(
    cinema: Cinema, store: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, name = str(settings.lake()), "silver.tickets"
    land(cinema)
    carry(monkeypatch, "sail", lake, FIRST)
    pinned = release.read().tables[name]
    expected = sorted(table_reader.read(name, pinned).collect())
    land_more(cinema)
    carry(monkeypatch, "sail", lake, THEN)
    (settings.lake() / "_releases" / "2.json").unlink()
    cinema.land("tickets", [ticket(30, at="2017-03-01 09:00")], day="2017-03-04", name="late")
    carry(monkeypatch, "sail", lake, THEN)
    maintenance.optimize(name)
    (settings.table_path(name) / "part-left-behind.zst.parquet").write_bytes(b"by a killed run")
    assert maintenance.vacuum(name, timedelta(0), delete=True).gone >= 2
    assert maintenance.vacuum(name, timedelta(0), delete=True).gone == 0
    assert sorted(table_reader.read(name, pinned).collect()) == expected


def test_an_engine_that_has_another_disk_is_refused_before_a_run(
    cinema: Cinema, home: Path, sail_on_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_ENGINE", sail_on_s3)
    pipeline.check_interval(*FIRST)  # it sees this one
    moved = home / "lake"
    monkeypatch.setattr(storage, "tree", lambda *_: [])  # as if what it wrote lay on its own disk
    monkeypatch.setenv("MILLRACE_LAKE", str(moved / "elsewhere"))
    with pytest.raises(
        delta.LakeError,
        match=r"^the engine at sc://\S+ does not see the lake at \S+/elsewhere: .*Mount that folder at the same path",
    ):
        pipeline.check_interval(*FIRST)
