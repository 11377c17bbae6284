"""A project with none of the sample's names, from landed files to gold: two streams, text keys, a dimension, a window
of 180 days, a filter, a plain transform.

The oracle is a loop over what has landed, in Python. It knows the sentences of the contracts, and nothing of Millrace.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from contracts import catalog
from contracts.check import problems
from contracts.project import current
from contracts.report import PUBLISHED, UNCHANGED
from etl.transforms import StageError
from lake import delta
from millrace import pipeline
from tests.carrying import differing
from tests.conftest import set_home
from tests.landing import LandingZone, rows
from tests.projects import ARCADE, CINEMA, GROCERY

DAY = timedelta(days=1)
START = date(2031, 1, 1)
PLAYERS = [f"{n:08x}-0000-4000-8000-{n:012x}" for n in range(4)]
GAMES = ("chess", "go", "Ärger", "")
SCHEMAS = {
    "plays": pa.schema(
        [
            *((name, pa.string()) for name in ("round", "player", "game", "mode")),
            ("ended_at", pa.timestamp("us")),
            ("seconds", pa.int64()),
            ("stake", pa.float64()),
        ]
    ),
    "payments": pa.schema(
        [("number", pa.int64()), ("player", pa.string()), ("paid_on", pa.date32()), ("amount", pa.float64())]
    ),
    "players": pa.schema([("player", pa.string()), ("tier", pa.string()), ("country", pa.string())]),
}
Row = dict[str, Any]


def cents(value: float | None) -> Decimal | None:
    """Of the double itself: 1.005 is a little less than it looks."""
    return (
        None
        if value is None
        else (Decimal(value * 100).to_integral_value(ROUND_HALF_UP) / 100).quantize(Decimal("0.01"))
    )


@dataclass
class Arcade:
    """What has landed: the newest delivery of each round and payment, and of each player."""

    landing: LandingZone
    plays: dict[str, Row] = field(default_factory=dict)
    payments: dict[int, Row] = field(default_factory=dict)
    tiers: dict[str, str] = field(default_factory=dict)
    files: int = 0

    def _land(self, table: str, found: list[Row], day: date) -> None:
        self.files += 1
        self.landing.land(
            table,
            pa.Table.from_pylist(found, schema=SCHEMAS[table]),
            day,
            f"{table}_{self.files:03}",
            suffix=".csv" if table == "payments" else ".parquet",
        )

    def play(self, day: date, *found: Row) -> None:
        self._land("plays", [*found], day)
        self.plays.update({row["round"]: row for row in found})

    def pay(self, day: date, *found: Row) -> None:
        self._land("payments", [*found], day)
        self.payments.update({row["number"]: row for row in found})

    def rank(self, day: date, **tiers: str) -> None:
        """A snapshot of every player; those who are not named are gone."""
        self._land(
            "players",
            [{"player": PLAYERS[int(name[1:])], "tier": tier, "country": None} for name, tier in tiers.items()],
            day,
        )
        # Snapshots keep the newest row of each key: a player who is missing keeps the tier of the snapshot before.
        self.tiers |= {PLAYERS[int(name[1:])]: tier for name, tier in tiers.items()}

    # --- the oracle

    def rounds(self, player: str, t: date) -> Row | None:
        known = sorted(
            (row for row in self.plays.values() if row["player"] == player and row["ended_at"].date() < t),
            key=lambda row: (row["ended_at"], row["game"]),
        )
        if not known:
            return None

        def within(days: int) -> list[Row]:
            return [row for row in known if row["ended_at"].date() >= t - days * DAY]

        month, half = within(30), within(180)
        ranked = [row for row in month if row["mode"] == "ranked"]
        stakes = [cents(row["stake"]) for row in month if row["stake"] is not None]
        last_ranked = [row["ended_at"] for row in known if row["mode"] == "ranked"]
        return {
            **{f"rounds_{w}d": len(within(w)) for w in (1, 7, 180)},
            "ranked_rounds_30d": len(ranked),
            **{f"seconds_{w}d": sum(row["seconds"] for row in within(w)) for w in (7, 180)},
            "games_30d": len({row["game"] for row in month}),
            "games_180d": len({row["game"] for row in half}),
            "ranked_games_30d": len({row["game"] for row in ranked}),
            "smallest_stake_30d": min(stakes, default=None),
            "largest_stake_30d": max(stakes, default=None),
            "mean_stake_30d": float(sum(stakes)) / len(stakes) if stakes else None,
            "ranked_share_30d": len(ranked) / len(month) if month else 0.0,
            "last_game": known[-1]["game"],
            "last_ranked_at": max(last_ranked).replace(tzinfo=UTC) if last_ranked else None,
        }

    def paid(self, player: str, t: date) -> Row | None:
        known = [row for row in self.payments.values() if row["player"] == player and row["paid_on"] < t]
        if not known:
            return None

        def within(days: int) -> list[Decimal]:
            return [cents(row["amount"]) for row in known if row["paid_on"] >= t - days * DAY]

        return {
            "paid_30d": sum(within(30), Decimal("0.00")),
            "paid_180d": sum(within(180), Decimal("0.00")),
            "paid_as_gold_180d": sum(within(180), Decimal("0.00"))
            if self.tiers.get(player) == "gold"
            else Decimal("0.00"),
            "payments_30d": len(within(30)),
            "last_paid_at": datetime.combine(max(row["paid_on"] for row in known), time(), UTC),
        }

    def takings(self, t: date) -> dict[str, Row]:
        week = [
            row for row in self.payments.values() if t - 7 * DAY <= row["paid_on"] < t and row["player"] in self.tiers
        ]
        found = {}
        for tier in {self.tiers[row["player"]] for row in week}:
            paid = [row for row in week if self.tiers[row["player"]] == tier]
            found[tier] = {
                "takings": sum((cents(row["amount"]) for row in paid), Decimal("0.00")),
                "payers": len({row["player"] for row in paid}),
            }
        return found


@pytest.fixture
def arcade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arcade:
    return opened(tmp_path, monkeypatch)


def opened(home: Path, monkeypatch: pytest.MonkeyPatch) -> Arcade:
    set_home(home, monkeypatch)
    monkeypatch.setenv("MILLRACE_PROJECT", str(ARCADE))
    return Arcade(LandingZone(home / "landing"))


def play(
    number: int,
    player: int,
    at: datetime,
    game: str = "chess",
    mode: str | None = "casual",
    seconds: int = 60,
    stake: float | None = 1.005,
) -> Row:
    return {
        "round": f"r{number}",
        "player": PLAYERS[player],
        "game": game,
        "mode": mode,
        "ended_at": at,
        "seconds": seconds,
        "stake": stake,
    }


def payment(number: int, player: int, on: date, amount: float = 2.5) -> Row:
    return {"number": number, "player": PLAYERS[player], "paid_on": on, "amount": amount}


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12)


def run(end: date, start: date = START) -> dict[str, Any]:
    return {report.table: report for report in pipeline.run_all(str(start), str(end), "test")}


def by_player(table: str) -> dict[str, dict[date, Row]]:
    found: dict[str, dict[date, Row]] = {}
    for row in rows(table):
        at = row["event_timestamp"].astimezone(UTC).date()
        assert at not in found.setdefault(row["player"], {})
        found[row["player"]][at] = {
            name: value for name, value in row.items() if name not in ("player", "event_timestamp")
        }
    return found


def check(arcade: Arcade, horizon: date, first: date = START) -> None:
    """Every feature at every midnight, up to the horizon: the newest row at or before it."""
    views: dict[str, Callable[[str, date], Row | None]] = {
        "gold.player_rounds": arcade.rounds,
        "gold.player_payments": arcade.paid,
    }
    for table, oracle in views.items():
        found = by_player(table)
        for player in PLAYERS:
            newest = None
            for t in midnights(first, horizon):
                newest = found.get(player, {}).get(t, newest)
                assert newest == oracle(player, t), f"{table} of {player} at {t}"
        assert all(t <= horizon for rows_of in found.values() for t in rows_of)
    takings: dict[date, dict[str, Row]] = {}
    for row in rows("gold.tier_takings"):
        at = row["event_timestamp"].astimezone(UTC).date()
        takings.setdefault(at, {})[row["tier"]] = {"takings": row["takings"], "payers": row["payers"]}
    for t in midnights(first, horizon):
        assert takings.get(t, {}) == arcade.takings(t), f"takings at {t}"


def midnights(first: date, horizon: date) -> Iterator[date]:
    return (first + n * DAY for n in range((horizon - first).days + 1))


def first_days(arcade: Arcade) -> date:
    """Four days of everything, and the day after them."""
    arcade.rank(START, p0="gold", p1="basic", p2="basic")
    arcade.play(
        START,
        play(1, 0, noon(START), mode="ranked", stake=None),
        play(2, 0, noon(START), game="go", stake=0.005),
        play(3, 1, datetime(2031, 1, 1, 23, 59, 59, 999999), game="Ärger", seconds=0),
    )
    arcade.pay(START, payment(1, 0, START), payment(2, 1, START, -1.25))
    third = START + 3 * DAY
    arcade.play(third, play(4, 0, datetime(2031, 1, 4), game="go", mode="ranked"), play(5, 2, noon(third), game=""))
    arcade.pay(third, payment(3, 0, third, 1e6), payment(4, 3, third, 0.125))
    return START + 4 * DAY


def test_the_project_is_without_problems(arcade: Arcade) -> None:
    assert problems(current()) == []


def test_a_first_run_and_a_run_with_nothing_new(arcade: Arcade) -> None:
    horizon = first_days(arcade) + 200 * DAY
    reports = run(first_days_end := START + 4 * DAY)
    check(arcade, first_days_end)
    assert reports["gold.player_rounds"].status == PUBLISHED
    run(horizon - 20 * DAY)  # windows decay to nothing
    check(arcade, horizon - 20 * DAY)
    again = run(horizon - 20 * DAY)
    assert {name for name, report in again.items() if report.status != UNCHANGED} == set()


def test_late_rows_and_corrections_change_what_they_concern(arcade: Arcade) -> None:
    end = first_days(arcade)
    run(end)
    arcade.play(START + DAY, play(6, 0, datetime(2031, 1, 2), game="go", mode="ranked", stake=-7.5))
    arcade.pay(START + 2 * DAY, payment(5, 0, START + DAY, 1000.0))
    reports = run(end)
    check(arcade, end)
    assert reports["gold.player_payments"].status == reports["gold.tier_takings"].status == PUBLISHED
    arcade.play(
        START + 3 * DAY, play(2, 0, noon(START), game="chess", mode="ranked", seconds=5, stake=99.0)
    )  # once more, on the same day
    run(end)
    check(arcade, end)


def test_a_changed_dimension_recomputes_the_days_of_its_events_only(arcade: Arcade) -> None:
    end = first_days(arcade)
    run(end)
    arcade.rank(START + 2 * DAY, p0="basic", p1="basic", p2="basic")
    reports = run(end)
    check(arcade, end)
    assert reports["gold.player_payments"].status == PUBLISHED
    assert reports["gold.player_rounds"].status == UNCHANGED
    arcade.rank(START + 3 * DAY, p0="basic", p1="basic", p2="gold")  # who has paid nothing
    assert run(end)["gold.player_payments"].status == UNCHANGED
    arcade.rank(START + 3 * DAY, p3="gold", p0="gold")
    run(end)
    check(arcade, end)


def test_rows_deleted_from_the_lake_leave_the_windows(arcade: Arcade) -> None:
    end = first_days(arcade)
    run(end)
    for table in ("bronze.payments", "bronze.plays"):
        opened_table = delta.open_to_write(table)
        assert opened_table is not None
        opened_table.delete(f"player = '{PLAYERS[0]}'")
    arcade.plays = {name: row for name, row in arcade.plays.items() if row["player"] != PLAYERS[0]}
    arcade.payments = {name: row for name, row in arcade.payments.items() if row["player"] != PLAYERS[0]}
    run(end)
    check(arcade, end)


def test_a_shop_day_by_day_is_the_shop_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random rounds and payments, some of them late, some corrected, with a tier that changes now and then."""
    rng = random.Random(7)
    arcade = opened(tmp_path / "days", monkeypatch)
    arcade.rank(START, p0="gold", p1="basic", p2="basic", p3="gold")
    number = 0
    for n in (0, 1, 2, 7, 8, 31, 180, 181):
        day = START + n * DAY
        late = day - DAY * rng.choice((0, 0, 1, 2)) if n else day
        numbers = range(number, number := number + rng.randint(1, 5))
        arcade.play(
            day,
            *(
                play(
                    i,
                    rng.randrange(4),
                    noon(late) + timedelta(seconds=rng.randrange(40_000)),
                    rng.choice(GAMES),
                    rng.choice(("casual", "ranked")),
                    i,
                    rng.choice((None, i / 8)),
                )
                for i in numbers
            ),
        )
        arcade.pay(day, *(payment(i + 1, rng.randrange(4), late, rng.choice((-1.0, 0.0, 10.01))) for i in numbers))
        if n in (2, 31):
            arcade.rank(day, p0=rng.choice(("gold", "basic")), p1="gold")
        run(day + DAY, day)
    check(arcade, START + 182 * DAY)
    lake = tmp_path / "days" / "lake"
    opened(tmp_path / "once", monkeypatch)
    monkeypatch.setenv("MILLRACE_LANDING", str(arcade.landing.root))
    run(START + 182 * DAY)
    assert differing(lake, tmp_path / "once" / "lake") == []
    assert len(catalog.tables()) == 10


@pytest.mark.parametrize("root", [ARCADE, CINEMA, GROCERY, GROCERY.parent / "starter"], ids=lambda root: root.name)
def test_no_project_of_ours_has_a_problem(root: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Views and services included, which a run without serving does not look at."""
    monkeypatch.setenv("MILLRACE_PROJECT", str(root))
    assert pipeline.project_problems() == []


def test_a_gold_transform_of_another_type_publishes_nothing(arcade: Arcade, monkeypatch: pytest.MonkeyPatch) -> None:
    end = first_days(arcade)
    module = current().module("transforms.gold.tier_takings")
    features = module.features
    with monkeypatch.context() as wrong:
        wrong.setattr(
            module, "features", lambda *inputs: features(*inputs).withColumn("takings", F.col("takings").cast("double"))
        )
        message = r"gold\.tier_takings: its transform.* returns takings as double instead of decimal\(18,2\)"
        with pytest.raises(StageError, match=message):
            run(end)
    run(end)
    check(arcade, end)
