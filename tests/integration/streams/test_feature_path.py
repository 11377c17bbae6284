"""Messages of a real Kafka in online features before a release has them, against a loop in Python."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from contracts.report import TableReport
from etl import stage, table_reader
from etl.planning import Plan
from etl.sources.group import GroupReader
from etl.stage import Staged
from features import registry
from features.online import backends
from features.online.consistency import NothingToCompareError
from features.streaming import tails
from lake import delta, publishing, release, settings
from millrace import cli, feature_worker, pipeline
from millrace.feature_worker import FeatureWorker
from tests.integration.streams.conftest import Row, Stream
from tests.integration.test_instants import SHOWN, oracle
from tests.integration.test_second_project import PLAYERS, SCHEMAS
from tests.landing import LandingZone
from tests.projects import ARCADE
from tests.servers import Postgres, Redis

PROJECT = ARCADE
DAY = date(2021, 1, 1)
NOON = datetime(2021, 1, 3, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@dataclass
class Shop:
    """Rounds that came as files and messages, and what the newest delivery of each on its earliest day says."""

    stream: Stream
    counted: dict[str, Row] = field(default_factory=dict)
    draw: random.Random = field(default_factory=lambda: random.Random(7))
    files: int = 0

    def round(self, at: datetime, **other: Any) -> Row:
        row = {
            "round": uuid.UUID(int=self.draw.getrandbits(128)).hex,
            "player": self.draw.choice(PLAYERS),
            "game": self.draw.choice(("go", "chess", "Ärger")),
            "mode": self.draw.choice(("ranked", "casual", None)),
            "ended_at": at,
            "seconds": self.draw.randrange(900),
            "stake": self.draw.choice((None, self.draw.randrange(10_000) / 100)),
        }
        return row | other

    def rounds(self, start: datetime, count: int, minutes: int = 24 * 60) -> list[Row]:
        return [self.round(start + self.draw.randrange(minutes) * MINUTE) for _ in range(count)]

    def land(self, day: date, *rows: Row) -> None:
        self.files += 1
        naive = [row | {"ended_at": row["ended_at"].replace(tzinfo=None)} for row in rows]
        LandingZone(settings.landing()).land(
            "plays", pa.Table.from_pylist(naive, schema=SCHEMAS["plays"]), day, f"plays_{self.files}"
        )
        self._count(rows)

    def send(self, *rows: Row) -> None:
        """Messages, keyed by player: all of a player's are in one partition, in order."""
        for row in rows:
            self.stream.produce(
                row | {"ended_at": row["ended_at"].isoformat()}, partition=PLAYERS.index(row["player"]) % 2
            )
        self._count(rows)

    def _count(self, rows: Iterable[Row]) -> None:
        for row in rows:
            former = self.counted.get(row["round"])
            if former is None or row["ended_at"].date() <= former["ended_at"].date():
                self.counted[row["round"]] = row

    def wrong(self, *instants: datetime) -> list[Any]:
        """Served values that differ from the oracle's."""
        plays = [row | {"ended_at": row["ended_at"].replace(tzinfo=None)} for row in self.counted.values()]
        wrong = []
        store = registry.open_store()
        for at in instants:
            rows = [{"player": player, "request_time": at} for player in PLAYERS]
            served = store.get_online_features([f"player_now:{name}" for name in SHOWN], rows).to_dict()
            for n, player in enumerate(PLAYERS):
                expected = oracle(plays, player, at.replace(tzinfo=None)) or (None,) * len(SHOWN)
                for name, value in zip(SHOWN, expected, strict=True):
                    if served[name][n] != value:
                        wrong.append((player, at, name, value, served[name][n]))
        return wrong

    def instants(self, count: int = 8) -> list[datetime]:
        """Some at which an event comes or leaves, some random."""
        borders = [
            row["ended_at"] + length
            for row in self.draw.sample([*self.counted.values()], 20)
            for length in (timedelta(), 10 * MINUTE, 60 * MINUTE)
            if row["ended_at"].date() >= date(2021, 1, 2)
        ]
        return [*borders[:count], *(NOON + self.draw.random() * timedelta(days=4) for _ in range(count))]


def publish(start: str, end: str, run: str) -> None:
    """Run an interval, and put its release online."""
    pipeline.run_all(start, end, run)
    pipeline.serve(release.numbers()[-1])


def work(stream: Stream) -> FeatureWorker:
    """Append until every tail has read every message."""
    worker = FeatureWorker(feature_worker.tails_to_feed(), stream.said.append)
    source = GroupReader(worker.tables, feature_worker.group(), worker.starts)
    try:
        while behind(stream):
            worker.step(source)
    finally:
        source.close()
    return worker


def behind(stream: Stream) -> int:
    """Messages that some tail has not read."""
    reader = stream.reader()
    ends = {partition: end for partition, (_, end) in reader.ranges(stream.table).items()}
    reader.close()
    lag = 0
    for tail in tails.all_tails():
        positions = backends.configured().tails().positions(tail.name)
        lag += sum(end - (positions[p].next_offset if p in positions else 0) for p, end in ends.items())
    return lag


SERVERS = {"redis": Redis, "postgresql": Postgres}
EVERY_STORE = pytest.mark.parametrize("store", ["sqlite", *SERVERS], indirect=True)
EVERY_STORE_SLOWLY = pytest.mark.parametrize(
    "store", ["sqlite", *(pytest.param(name, marks=pytest.mark.slow) for name in SERVERS)], indirect=True
)


@pytest.fixture
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The online store that the test names; sqlite if it names none."""
    server = SERVERS.get(getattr(request, "param", "sqlite"))
    if server is None:
        yield
        return
    with server() as started:
        monkeypatch.setenv("MILLRACE_ONLINE", started.url)
        yield


@pytest.fixture
def shop(stream: Stream, store: None) -> Shop:
    """Two landed days, released and online."""
    shop, zone = Shop(stream), LandingZone(settings.landing())
    payment = {"number": 1, "player": PLAYERS[1], "paid_on": DAY, "amount": 2.5}
    players = [{"player": player, "tier": "basic", "country": None} for player in PLAYERS]
    for table, rows in (("payments", [payment]), ("players", players)):
        zone.land(table, pa.Table.from_pylist(rows, schema=SCHEMAS[table]), DAY, table)
    shop.land(DAY, *shop.rounds(datetime(2021, 1, 1, tzinfo=UTC), 60))
    shop.land(date(2021, 1, 2), *shop.rounds(datetime(2021, 1, 2, tzinfo=UTC), 60))
    publish("2021-01-01", "2021-01-03", "first")
    return shop


@EVERY_STORE
def test_messages_count_at_once_in_every_window(shop: Shop) -> None:
    assert shop.wrong(*shop.instants()) == []
    shop.send(*shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 80, minutes=12 * 60))
    work(shop.stream)
    assert shop.wrong(*shop.instants()) == []


def test_late_repeated_corrected_and_moved_events_count_as_silver_counts_them(shop: Shop) -> None:
    late = shop.rounds(datetime(2021, 1, 1, 18, tzinfo=UTC), 20)
    shop.send(*late, *late[:5])
    first = shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 30, minutes=600)
    shop.send(*first)
    landed = [row for row in shop.counted.values() if row["ended_at"].date() == date(2021, 1, 2)][:6]
    shop.send(*(row | {"seconds": 5_000, "game": "corrected"} for row in landed[:3]))  # of a file, by a message
    shop.send(*(row | {"ended_at": row["ended_at"] + timedelta(days=1)} for row in landed[3:]))  # a later day: ignored
    shop.send(*(row | {"seconds": 1, "stake": 7.25} for row in first[:4]))
    shop.send(*(row | {"ended_at": row["ended_at"] - timedelta(days=1)} for row in first[4:8]))  # an earlier day: wins
    work(shop.stream)
    assert shop.wrong(*shop.instants(16)) == []
    served = {at: shop.wrong(at) for at in shop.instants(4)}
    assert not any(served.values())
    shop.stream.catch_up()
    publish("2021-01-01", "2021-01-04", "second")
    assert shop.wrong(*shop.instants(16)) == []


@EVERY_STORE_SLOWLY
def test_releases_take_over_and_roll_back_while_messages_come(shop: Shop) -> None:
    shop.send(*shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 40, minutes=600))
    work(shop.stream)
    shop.stream.catch_up()
    shop.send(*shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 20, minutes=600))  # bronze has not read these
    work(shop.stream)
    publish("2021-01-01", "2021-01-04", "second")
    assert shop.wrong(*shop.instants()) == []
    shop.stream.catch_up()
    publish("2021-01-01", "2021-01-04", "third")
    assert shop.wrong(*shop.instants()) == []
    shop.send(*shop.rounds(datetime(2021, 1, 3, 12, tzinfo=UTC), 20, minutes=300))
    work(shop.stream)
    for number in (1, 3, 2):
        pipeline.serve(number)
        work(shop.stream)
        assert release.read(number).number == backends.metadata().release
        assert shop.wrong(*shop.instants()) == []


def test_a_release_is_made_while_messages_reach_bronze_all_the_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_table, built = pipeline.run_table, []

    def run_and_go_on(name: str, *arguments: Any) -> TableReport:
        report = run_table(name, *arguments)
        built.append(name)
        shop.send(*shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 3, minutes=600))
        shop.stream.catch_up()
        return report

    monkeypatch.setattr(pipeline, "run_table", run_and_go_on)
    shop.send(*shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 20, minutes=600))
    shop.stream.catch_up()
    publish("2021-01-01", "2021-01-04", "second")
    assert built.count("silver.plays") == 2
    work(shop.stream)
    assert shop.wrong(*shop.instants()) == []


@pytest.mark.slow
def test_a_run_reads_its_version_though_the_lake_writer_writes_a_checkpoint(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which Sail cannot read then, so the table is planned again."""
    stage_table, planned = stage.stage, []

    def stage_later(plan: Plan) -> Staged:
        if plan.table.qualified == "silver.plays":
            planned.append(plan.inputs["bronze.plays"])
            for row in shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 8 if len(planned) == 1 else 0, minutes=600):
                shop.send(row)
                shop.stream.catch_up()
        return stage_table(plan)

    monkeypatch.setattr(publishing, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(stage, "stage", stage_later)
    monkeypatch.setattr(delta, "checkpoint_older", lambda *_: None)  # as if the checkpoint came right after it looked
    monkeypatch.setattr(table_reader, "FEW_FILES", 0)
    shop.send(*shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 20, minutes=600))
    shop.stream.catch_up()
    publish("2021-01-01", "2021-01-04", "second")
    assert len({*planned}) == 2
    work(shop.stream)
    assert shop.wrong(*shop.instants()) == []


def test_a_row_that_a_release_would_quarantine_does_not_count(shop: Shop) -> None:
    good = shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 3, minutes=60)
    shop.send(*good)
    bad = [good[0] | {"mode": "unknown"}, good[1] | {"seconds": -1}, good[2] | {"player": "not a player"}]
    for row in bad:
        shop.stream.produce(row | {"ended_at": row["ended_at"].isoformat()}, partition=0)
    shop.stream.produce(b"poison", {"round": "r"}, None, partition=1)
    work(shop.stream)
    assert shop.wrong(*shop.instants()) == []


def test_a_player_without_a_row_in_the_release_is_served_from_the_tail(shop: Shop) -> None:
    store = registry.open_store()
    newcomer = str(uuid.UUID(int=99))
    row = shop.round(NOON, player=newcomer)
    shop.stream.produce(row | {"ended_at": row["ended_at"].isoformat()})
    work(shop.stream)
    asked = [{"player": newcomer, "request_time": at} for at in (NOON, NOON + MINUTE, NOON + 11 * MINUTE)]
    served = store.get_online_features(["player_now:rounds_now_10m", "player_now:rounds_now_24h"], asked).to_dict()
    assert (served["rounds_now_10m"], served["rounds_now_24h"]) == ([None, 1, 0], [None, 1, 1])


def test_the_stream_is_compared_with_a_release_before_that_is_served(shop: Shop) -> None:
    with pytest.raises(NothingToCompareError, match="release 1 is online already"):
        pipeline.stream_consistency(None)
    shop.send(*shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 40, minutes=600))
    shop.stream.catch_up()
    pipeline.run_all("2021-01-01", "2021-01-04", "second")
    assert pipeline.stream_consistency(None).wrong  # no worker has counted the messages
    shop.send(*shop.rounds(datetime(2021, 1, 3, tzinfo=UTC), 10, minutes=600))  # newer than the release
    work(shop.stream)
    result = pipeline.stream_consistency(None)
    assert (result.wrong, result.release) == (0, 2)
    assert result.compared >= 4 * len(PLAYERS)
    assert cli.main(["compare", "--stream"]) == 0


def test_offsets_without_a_message_are_no_lag(shop: Shop) -> None:
    shop.stream.abort(*({"round": "aborted"} for _ in range(3)))
    work(shop.stream)
    assert behind(shop.stream) == 0
