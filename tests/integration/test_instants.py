"""A view of instants from landed files to training and serving: values at any instant, against a loop in Python."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from features import registry, training, views
from features.instants import cluster, offline, request
from features.instants.request import RequestTimeError
from features.instants.state import MARGIN
from features.lake_reader import SourceError
from features.online.generation import OnlineStoreError
from features.serving.app import app
from features.training import leaks, sets
from millrace import pipeline
from tests.conftest import set_home
from tests.integration.test_second_project import PLAYERS, SCHEMAS, cents
from tests.landing import LandingZone
from tests.projects import ARCADE

PROJECT = ARCADE
DAY = date(2031, 1, 1)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
Row = dict[str, Any]
SHOWN = (
    "rounds_now_10m",
    "rounds_now_1h",
    "rounds_now_7d",
    "ranked_now_1h",
    "seconds_now_10m",
    "stakes_now_24h",
    "games_now_1h",
    "games_now_7d",
    "mean_stake_now_7d",
    "ranked_share_now_24h",
    "newest_game_now",
    "first_game_now_24h",
)


def oracle(plays: list[Row], player: str, at: datetime) -> tuple[Any, ...] | None:
    """The features of SHOWN by their sentences."""
    known = sorted(
        (row for row in plays if row["player"] == player and row["ended_at"] < at),
        key=lambda row: (row["ended_at"], row["game"]),
    )
    if not known:
        return None

    def within(length: timedelta) -> list[Row]:
        return [row for row in known if row["ended_at"] >= at - length]

    day, week = within(24 * HOUR), within(168 * HOUR)
    stakes = [cents(row["stake"]) for row in day if row["stake"] is not None]
    weekly = [cents(row["stake"]) for row in week if row["stake"] is not None]
    return (
        len(within(10 * MINUTE)),
        len(within(HOUR)),
        len(week),
        sum(row["mode"] == "ranked" for row in within(HOUR)),
        sum(row["seconds"] for row in within(10 * MINUTE)),
        float(sum(stakes, Decimal())),
        len({row["game"] for row in within(HOUR)}),
        len({row["game"] for row in week}),
        float(sum(weekly, Decimal())) / len(weekly) if weekly else None,
        sum(row["mode"] == "ranked" for row in day) / len(day) if day else 0.0,
        known[-1]["game"],
        day[0]["game"] if day else None,
    )


class Arcade:
    """Landed rounds, and what the newest delivery of each says."""

    def __init__(self, home: Path) -> None:
        self.zone, self.files, self.plays = LandingZone(home / "landing"), 0, dict[str, Row]()
        self.draw = random.Random(5)
        self._land("payments", [{"number": 1, "player": PLAYERS[0], "paid_on": DAY, "amount": 1.0}], DAY, ".csv")
        self._land("players", [{"player": player, "tier": "basic", "country": None} for player in PLAYERS], DAY)

    def _land(self, table: str, rows: list[Row], day: date, suffix: str = ".parquet") -> None:
        self.files += 1
        rows_of = pa.Table.from_pylist(rows, schema=SCHEMAS[table])
        self.zone.land(table, rows_of, day, f"{table}_{self.files}", suffix=suffix)

    def play(self, landed: date, *rows: Row) -> None:
        self._land("plays", [*rows], landed)
        self.plays |= {row["round"]: row for row in rows}

    def rounds(self, day: date, count: int) -> list[Row]:
        start = datetime(day.year, day.month, day.day)
        return [
            {
                "round": f"{day}-{n}",
                "player": self.draw.choice(PLAYERS),
                "game": self.draw.choice(("go", "chess", "Ärger")),
                "mode": self.draw.choice(("ranked", "casual", None)),
                "ended_at": start + self.draw.randrange(24 * 12) * 5 * MINUTE,
                "seconds": self.draw.randrange(900),
                "stake": self.draw.choice((None, self.draw.randrange(10_000) / 100)),
            }
            for n in range(count)
        ]

    def instants(self, end: date, count: int = 12) -> list[datetime]:
        """Some in the last two days, some at which an event comes or leaves."""
        horizon = datetime(end.year, end.month, end.day)
        drawn = [horizon - self.draw.random() * MARGIN for _ in range(count)]
        borders = [row["ended_at"] + length for row in self.plays.values() for length in (0 * HOUR, HOUR, 10 * MINUTE)]
        return [*drawn, horizon, *(at for at in borders if horizon - MARGIN <= at <= horizon)][:60]


@pytest.fixture
def arcade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arcade:
    set_home(tmp_path, monkeypatch, ARCADE)
    return Arcade(tmp_path)


def check(arcade: Arcade, end: date) -> None:
    """Training and serving give the oracle's values at many instants."""
    store = registry.open_store()
    plays, refs = [*arcade.plays.values()], [f"player_now:{name}" for name in SHOWN]
    moments = [at.replace(tzinfo=UTC) for at in arcade.instants(end)]
    labels = [(player, at) for at in moments for player in (*PLAYERS, "nobody")]
    expected = [oracle(plays, player, at.replace(tzinfo=None)) or (None,) * len(SHOWN) for player, at in labels]
    frame = pd.DataFrame(labels, columns=["player", "event_timestamp"])
    trained = store.get_historical_features(frame, refs).to_arrow()
    assert [*zip(*(trained[name].to_pylist() for name in SHOWN), strict=True)] == expected
    served = store.get_online_features(
        refs, {"player": [player for player, _ in labels], "request_time": [at for _, at in labels]}
    ).to_dict()
    assert [*zip(*(served[name] for name in SHOWN), strict=True)] == expected


def test_values_at_any_instant_after_each_run(arcade: Arcade) -> None:
    for n in range(3):
        day = DAY + timedelta(days=n)
        arcade.play(day, *arcade.rounds(day, 25))
    end = DAY + timedelta(days=3)
    pipeline.run_all(str(DAY), str(end), "first")
    pipeline.serve()
    check(arcade, end)

    late = arcade.rounds(DAY, 3)
    for number, row in enumerate(late):
        row["round"] = f"late-{number}"
    corrected = [row | {"seconds": 1, "game": "go"} for row in [*arcade.plays.values()][:4]]
    arcade.play(end, *late, *corrected, *arcade.rounds(end, 10))
    pipeline.run_all(str(end), str(end + timedelta(days=1)), "second")
    pipeline.serve()
    check(arcade, end + timedelta(days=1))


def test_windows_empty_without_a_write_and_the_past_is_refused(arcade: Arcade) -> None:
    arcade.play(DAY, *arcade.rounds(DAY, 25))
    pipeline.run_all(str(DAY), str(DAY + timedelta(days=1)), "run")
    pipeline.serve()
    store = registry.open_store()
    later = datetime(2031, 1, 20, tzinfo=UTC)
    entities = {"player": [PLAYERS[0]], "request_time": [later]}
    features = ["player_now:rounds_now_7d", "player_now:newest_game_now"]
    answer = store.get_online_features(features, entities).to_dict()
    plays = [*arcade.plays.values()]
    assert (answer["rounds_now_7d"], answer["newest_game_now"]) == (
        [0],
        [oracle(plays, PLAYERS[0], datetime(2031, 1, 20))[10]],  # type: ignore[index]
    )
    entities["request_time"] = [datetime(2030, 12, 1, tzinfo=UTC)]
    with pytest.raises(
        RequestTimeError, match=r"player_now: request_time is 2030-12-01 00:00:00, and the online store"
    ):
        store.get_online_features(features, entities)


def test_what_is_refused_says_what_to_do(arcade: Arcade, monkeypatch: pytest.MonkeyPatch) -> None:
    arcade.play(DAY, *arcade.rounds(DAY, 25))
    pipeline.run_all(str(DAY), str(DAY + timedelta(days=1)), "run")
    pipeline.serve()
    player, noon = PLAYERS[0], datetime(2031, 1, 1, 12, tzinfo=UTC)
    store, features = registry.open_store(), ["player_now:rounds_now_7d"]
    with TestClient(app(), base_url="http://127.0.0.1:6566", raise_server_exceptions=False) as client:
        for moment, status, reason in (
            ("2031-01-02T00:00:00Z", 200, ""),
            ("2030-12-01T00:00:00Z", 422, "player_now: request_time is 2030-12-01 00:00:00, and the online store no"),
        ):
            entities = {"player": [player], "request_time": [moment]}
            answer = client.post("/get-online-features", json={"features": features, "entities": entities})
            assert (answer.status_code, reason in answer.text) == (status, True), answer.text
    with pytest.raises(OnlineStoreError, match="player_now is computed from events, so no values can be written"):
        store._get_provider().online_write_batch(store.config, views.view("player_now"), [], None)
    with monkeypatch.context() as patch:
        patch.setattr("features.instants.fold.digest", lambda _: "another")
        with pytest.raises(OnlineStoreError, match="its declaration has changed since it was loaded"):
            registry.open_store().get_online_features(features, {"player": [player]})
    with monkeypatch.context() as patch:
        patch.setattr("features.instants.declaration.columns_of", lambda *_: ["no_such_column"])
        patch.setattr("features.instants.state.query", lambda *_: pytest.fail("it was read"))
        with pytest.raises(SourceError, match="no_such_column"):
            pipeline.serve(fresh=True)

    labels = pd.DataFrame([{"player": player, "tier": "basic", "event_timestamp": noon} for player in PLAYERS])
    training.create(labels, "player_v1", "set")
    read = sets.read("set")
    before = {found.feature: found.future for found in training.check_leaks("set").features}
    assert {*before.values()} == {0}
    altered = pa.array([100] * len(PLAYERS), pa.int64())
    column = read.column_names.index("rounds_now_7d")
    monkeypatch.setattr(sets, "read", lambda _: read.set_column(column, "rounds_now_7d", altered))
    after = {found.feature: found.future for found in training.check_leaks("set").features}
    assert after == before | {"rounds_now_7d": len(PLAYERS)}


def test_the_leak_check_does_not_trust_the_join(arcade: Arcade, monkeypatch: pytest.MonkeyPatch) -> None:
    """A join that sees an hour of the future: the check, which uses the same one, recounts a sample."""
    arcade.play(DAY, *arcade.rounds(DAY, 60))
    pipeline.run_all(str(DAY), str(DAY + timedelta(days=1)), "run")
    honest = offline.as_of
    monkeypatch.setattr(
        offline,
        "as_of",
        lambda *some, **more: honest(*some, **more).replace(
            "__at,", f"__at + {HOUR // timedelta(microseconds=1)} AS __at,", 1
        ),
    )
    noon = datetime(2031, 1, 1, 12, tzinfo=UTC)
    rows = [
        {"player": player, "tier": "basic", "event_timestamp": noon + n * HOUR} for player in PLAYERS for n in range(9)
    ]
    training.create(pd.DataFrame(rows), "player_v1", "set")
    future = {found.feature: found.future for found in training.check_leaks("set").features}
    assert future["rounds_now_7d"] > 0
    monkeypatch.setattr(leaks, "RECOUNTED", 0)
    assert {found.future for found in training.check_leaks("set").features} == {0}


def test_a_training_set_joined_by_spark_is_the_same_file(arcade: Arcade, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Sail. With knowledge time, and with a label whose player has no event."""
    arcade.play(DAY, *arcade.rounds(DAY, 60))
    pipeline.run_all(str(DAY), str(DAY + timedelta(days=1)), "run")
    moments = [at.replace(tzinfo=UTC) for at in arcade.instants(DAY + timedelta(days=1))]
    rows = [{"player": player, "tier": "", "event_timestamp": at} for at in moments for player in (*PLAYERS, "nobody")]
    training.create(pd.DataFrame(rows), "player_v1", "set")
    training.create(pd.DataFrame(rows), "player_v1", "known", knowledge_time=True)
    monkeypatch.setenv("MILLRACE_JOIN", "spark")
    found = []
    honest = cluster.find

    def find(*some: Any) -> pa.Table:
        found.append(honest(*some))
        return found[-1]

    monkeypatch.setattr(cluster, "find", find)
    assert training.rebuild("set").same_file
    assert training.rebuild("known").same_file
    assert found
    assert {report.future for report in training.check_leaks("set").features} == {0}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2031, 1, 1), 1_924_992_000_000_000),
        (datetime(2031, 1, 1, 1, tzinfo=UTC), 1_924_995_600_000_000),
        ("2031-01-01T02:00:00.000001+02:00", 1_924_992_000_000_001),
        (1_924_992_000, 1_924_992_000_000_000),
        (1_924_992_000_000, "lies outside of the years 1900 to 2199. Whole numbers are seconds"),
        (datetime(1899, 12, 31), "lies outside of the years 1900 to 2199"),
        (pd.NaT, "request_time is a NaTType, and must be an instant"),
        (None, "request_time is a NoneType, and must be an instant"),
        (True, "request_time is a bool, and must be an instant"),
        ("tomorrow", "request_time is 'tomorrow', and must be an instant"),
    ],
)
def test_request_times(value: Any, expected: int | str) -> None:
    if isinstance(expected, int):
        assert request.microseconds(value) == expected
    else:
        with pytest.raises(RequestTimeError, match=expected):
            request.microseconds(value)


def test_each_row_without_a_request_time_has_that_of_the_request(arcade: Arcade) -> None:
    arcade.play(DAY, *arcade.rounds(DAY, 25))
    pipeline.run_all(str(DAY), str(DAY + timedelta(days=1)), "run")
    pipeline.serve()
    rows = [{"player": PLAYERS[0]}, {"player": PLAYERS[0], "request_time": datetime(2031, 1, 2, tzinfo=UTC)}]
    for entities in (rows, rows[::-1]):
        with pytest.raises(RequestTimeError, match="one request_time, an instant, for all of its entities"):
            registry.open_store().get_online_features(["player_now:rounds_now_7d"], entities)


def test_verify_recounts_at_random_instants(arcade: Arcade) -> None:
    arcade.play(DAY, *arcade.rounds(DAY, 60))
    pipeline.run_all(str(DAY), str(DAY + timedelta(days=1)), "run")
    found = pipeline.verify("gold.player_now", 5, 1)
    assert found.compared > 500
    assert not found.differences
