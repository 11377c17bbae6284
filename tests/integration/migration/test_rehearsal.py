"""State that the code of 4023ddf left, with the code of today: migrated, and gone on with; on this machine or moved to
servers.

The control is a home that only today's code has ever written.
"""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from bench.parity import compared
from contracts import catalog
from features import registry, training
from features.offline.saved_datasets import LakeStorage
from grocery.tests.shop import Shop
from lake import settings
from millrace import pipeline
from millrace.cli import main
from tests.carrying import FIRST, THEN
from tests.conftest import set_home
from tests.integration.migration.landed import land, land_more
from tests.integration.migration.make_archive import LABELS
from tests.projects import GROCERY
from tests.servers import Postgres, Redis

PROJECT = GROCERY

SERVICE = "customer_value_v1"
LATER = LABELS.replace("2017-03-02 12:00", "2017-03-05 00:00")


def go_on(home: Path) -> None:
    """The next days, with what came late."""
    land_more(Shop(home / "landing"))
    pipeline.run_all(*THEN, "next")
    pipeline.serve()


def serve_again() -> None:
    """From a store that is empty: a release of today's tables, some of which the old code did not have."""
    pipeline.run_all(*FIRST, "again")
    pipeline.serve()


def knows(labels: str = LABELS) -> list[Any]:
    store = registry.open_store()
    service = store.get_feature_service(SERVICE)
    rows = store.get_historical_features(labels, service).to_arrow().sort_by("customer_id").to_pylist()
    online = store.get_online_features(service, [{"customer_id": number} for number in (1, 2, 404)]).to_dict()
    kept = store.get_saved_dataset("kept").to_df().sort_values("customer_id").to_dict("records")
    return [rows, online, kept, training.read("old").sort_by("customer_id").to_pylist()]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], list[Any]]:
    """A home of today's code; what it knew after the first days, and after the next."""
    home = tmp_path_factory.mktemp("control")
    with pytest.MonkeyPatch.context() as patch:
        set_home(home, patch)
        land(Shop.open(home / "landing"))
        pipeline.run_all(*FIRST, "old")
        pipeline.serve()
        training.create(LABELS, SERVICE, "old")
        store = registry.open_store()
        service = store.get_feature_service(SERVICE)
        store.create_saved_dataset(
            store.get_historical_features(LABELS, service), "kept", LakeStorage("kept"), feature_service=service
        )
        before = knows()
        go_on(home)
        return home, before, knows(LATER)


def check_all(home: Path, control: tuple[Path, list[Any], list[Any]]) -> None:
    """It goes on as if nothing had been, and what was kept comes back bit for bit."""
    assert knows() == control[1]
    go_on(home)
    assert knows(LATER) == control[2]
    lakes = {"migrated": settings.lake(), "control": control[0] / "lake"}
    found = [compared(table, lakes) for table in catalog.tables()]
    assert [table.table for table in found if not table.equal] == []
    rebuilt = training.rebuild("old")
    assert (rebuilt.same_file, rebuilt.intact) == (True, True)


def test_on_the_same_machine(
    old: Path, control: tuple[Path, list[Any], list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["migrate", "--check"]) == 1
    )  # the functions of the old definitions import a module that was moved since
    assert capsys.readouterr().out.count("up to date") == 2
    assert main(["migrate"]) == 0
    assert "the definitions of this version are applied" in capsys.readouterr().out
    assert main(["migrate", "--check"]) == 0
    assert capsys.readouterr().out.count("up to date") == 3
    check_all(old, control)


@pytest.mark.slow
def test_moved_to_postgresql_and_redis(
    old: Path,
    postgres: Postgres,
    redis: Redis,
    control: tuple[Path, list[Any], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MILLRACE_REGISTRY", postgres.url)
    monkeypatch.setenv("MILLRACE_ONLINE", redis.url)
    assert main(["migrate", "--check"]) == 1
    told = capsys.readouterr().out
    assert f"make the table feast.registry; copy {old / 'feast' / 'registry.db'}; apply the definitions" in told
    assert main(["migrate"]) == 0
    assert "registry.db is copied" in (told := capsys.readouterr().out)
    assert "opensesame" not in told
    assert main(["migrate", "--check"]) == 0
    assert main(["migrate"]) == 0
    assert capsys.readouterr().out.count("up to date") == 6
    (old / "feast" / "registry.db").unlink()
    serve_again()
    check_all(old, control)


def test_moved_to_postgresql_alone(
    old: Path,
    postgres: Postgres,
    control: tuple[Path, list[Any], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE other")
    other = postgres.url.replace("/postgres", "/other")
    monkeypatch.setenv("MILLRACE_REGISTRY", other)
    monkeypatch.setenv("MILLRACE_ONLINE", other)
    assert main(["migrate"]) == 0
    assert "the pointer's table is made" in capsys.readouterr().out
    serve_again()
    assert knows() == control[1]
