"""Rounds of the arcade as messages: new, late, twice, corrected, moved to another day, and bad ones."""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tests.integration.test_instants import oracle

Row = dict[str, Any]
FIRST, DAYS = datetime(2021, 1, 1, tzinfo=UTC), 7
"""Rounds end within so many days."""
HORIZON = date(2021, 1, 4)
ALL = FIRST + timedelta(days=DAYS)
"""Every round is in the window of seven days before this instant."""
PLAYERS = [f"{n:08x}-0000-4000-8000-{n:012x}" for n in range(9)]
SHARES = {"new": 62, "late": 8, "again": 8, "corrected": 8, "earlier": 4, "later": 4, "poison": 3, "refused": 3}
"""What kinds of messages come, in percent."""


@dataclass
class Rounds:
    """Draws messages, and keeps the newest delivery of each round on its earliest day: the rule of silver tables."""

    draw: random.Random
    counted: dict[str, dict[str, Row]] = field(default_factory=lambda: {player: {} for player in PLAYERS})
    kinds: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def message(self) -> tuple[str, bytes]:
        """A message and the player that it is keyed by. It counts from now on."""
        kind = self.draw.choices([*SHARES], [*SHARES.values()])[0]
        player = self.draw.choice(PLAYERS)
        self.kinds[kind] += 1
        if kind == "poison":
            return player, self.draw.choice((b"poison", b'{"round": "r"}', b"[]", b"\xff", b"{" * 2_000))
        row = self._row(kind, player)
        value = json.dumps(row | {"ended_at": row["ended_at"].isoformat()}).encode()
        if kind != "refused":
            self.count(row)
        return player, value

    def count(self, row: Row) -> None:
        """Take a row that came."""
        with self.lock:
            rounds = self.counted[row["player"]]
            former = rounds.get(row["round"])
            if former is None or row["ended_at"].date() <= former["ended_at"].date():
                rounds[row["round"]] = row

    def _row(self, kind: str, player: str) -> Row:
        known = self.counted[player]
        if kind in ("new", "late", "refused") or not known:
            days = 2 if kind == "late" else DAYS
            row = self.new(player, FIRST + timedelta(seconds=self.draw.randrange(days * 24 * 3600)))
            return row | {"seconds": -1} if kind == "refused" else row
        former = self.draw.choice([*known.values()])
        if kind == "again":
            return former
        if kind == "corrected":
            return former | {"seconds": self.draw.randrange(900), "game": "corrected"}
        moved = former["ended_at"] + timedelta(days=1 if kind == "later" else -1)
        return former | {"ended_at": min(max(moved, FIRST), ALL - timedelta(seconds=1))}

    def new(self, player: str, at: datetime) -> Row:
        """A round that nobody has seen."""
        return {
            "round": uuid.UUID(int=self.draw.getrandbits(128)).hex,
            "player": player,
            "game": self.draw.choice(("go", "chess", "Ärger")),
            "mode": self.draw.choice(("ranked", "casual", None)),
            "ended_at": at,
            "seconds": self.draw.randrange(900),
            "stake": self.draw.choice((None, self.draw.randrange(10_000) / 100)),
        }

    def distinct(self, player: str) -> int:
        """How many rounds a player has."""
        with self.lock:
            return len(self.counted[player])

    def expected(self, player: str, at: datetime) -> tuple[Any, ...] | None:
        """The features of a player at an instant."""
        plays = [row | {"ended_at": row["ended_at"].replace(tzinfo=None)} for row in self.counted[player].values()]
        return oracle(plays, player, at.replace(tzinfo=None))

    def instants(self, count: int) -> list[datetime]:
        """Random ones, and some at which a round comes or leaves a window."""
        earliest = datetime(HORIZON.year, HORIZON.month, HORIZON.day, tzinfo=UTC) - timedelta(days=2)
        drawn = [earliest + self.draw.random() * (ALL + timedelta(days=2) - earliest) for _ in range(count)]
        rows = [row for rounds in self.counted.values() for row in rounds.values()]
        borders = [
            row["ended_at"] + self.draw.choice((0, 10, 60, 1440)) * timedelta(minutes=1)
            for row in self.draw.sample(rows, min(len(rows), count))
        ]
        return [*drawn, *(at for at in borders if at >= earliest), ALL]
