"""What happens in an episode: files that land, operations, and how often each is killed. A seed gives the same episode on every machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from random import Random
from typing import Any

from tests.landing import purchase

FIRST_DAY = date(2017, 3, 1)
CUSTOMERS, PRODUCTS = range(1, 6), range(1, 6)
UNKNOWN = 999
"""A product that no snapshot knows: worth a warning, and published."""
STEPS = 10
"""Operations in an episode."""
TRAINING_SETS = 3
Row = dict[str, Any]


@dataclass(frozen=True)
class Landing:
    """A file of the landing zone."""

    table: str
    day: date
    name: str
    rows: tuple[Row, ...]
    suffix: str = ".parquet"


@dataclass(frozen=True)
class Truth:
    """The rows that features have to be counted from, after a step: each purchase once, in its newest valid delivery. `landed` counts the rows of all files of transactions but copies."""

    purchases: tuple[Row, ...]
    promotions: tuple[Row, ...]
    landed: int
    horizon: date


@dataclass(frozen=True)
class Step:
    """An operation and its kills. `commands` run at the same time; the first one is killed, and done again until it ends by itself. The control runs them one after the other."""

    kind: str
    commands: tuple[tuple[str, ...], ...]
    kills: int
    truth: Truth
    landings: tuple[Landing, ...] = ()
    back_to: int | None = None
    """Index of the release to serve, of those that differ."""
    lost: str = ""
    """Training set whose table is removed before the step."""
    draws: tuple[tuple[float, float, float], ...] = ()
    """For each kill: how to kill, where, how much later; in [0, 1)."""


class Tills:
    """The shop's systems, which land files as they come: late, doubled, corrected, broken."""

    def __init__(self, random: Random) -> None:
        self.random, self.day, self.baskets, self.landed = random, FIRST_DAY, 0, 0
        self.kept: dict[tuple[int, int], tuple[date, Row]] = {}
        self.promotions: list[Row] = []
        self.files: list[Landing] = []

    def open(self) -> tuple[Landing, ...]:
        """The first day: a file of each table."""
        products = tuple({"product_id": n, "manufacturer_id": 5, "department": "GROCERY", "brand": "National"} for n in PRODUCTS)
        customers = tuple({"household_id": n, "age": f"{n}5-{n}9", "income": "50-74K", "household_size": str(n), "kids_count": "0"} for n in CUSTOMERS)
        campaign = {"campaign_id": 1, "campaign_type": "Type A", "start_date": FIRST_DAY, "end_date": date(2017, 3, 31)}
        redemption = {"household_id": 1, "coupon_upc": 100, "campaign_id": 1, "redemption_date": FIRST_DAY}
        others = (
            Landing("products", FIRST_DAY, "products", products),
            Landing("demographics", FIRST_DAY, "demographics", customers, ".csv"),
            Landing("campaigns", FIRST_DAY, "campaigns", ({"campaign_id": 1, "household_id": 1},), ".csv"),
            Landing("campaign_descriptions", FIRST_DAY, "campaign_descriptions", (campaign,), ".csv"),
            Landing("coupons", FIRST_DAY, "coupons", ({"coupon_upc": 100, "product_id": 1, "campaign_id": 1},), ".csv"),
            Landing("redemptions", FIRST_DAY, "redemptions", (redemption,), ".csv"),
            self._promotion(),
        )
        return (*others, self._purchases(FIRST_DAY, "transactions", 10))

    def next(self) -> tuple[tuple[Landing, ...], date]:
        """The files of one of the next days and the first day that a run over them has to begin with."""
        self.day += timedelta(days=self.random.choice((1, 1, 2, 9)))
        found, start = [self._purchases(self.day, "transactions", self.random.randint(3, 8))], self.day
        if self.random.random() < 0.5:
            start = FIRST_DAY + timedelta(days=self.random.randrange((self.day - FIRST_DAY).days))
            found.append(self._purchases(start, f"late_{self.day}", 2))
        if self.random.random() < 0.3:
            again = self.random.choice(self.files)
            start = min(start, again.day)
            found.append(Landing(again.table, again.day, f"copy_{self.day}", again.rows))
        if len(self.promotions) < len(PRODUCTS) and self.random.random() < 0.4:
            found.append(self._promotion())
        if self.random.random() < 0.3:
            products = tuple({"product_id": n, "manufacturer_id": self.day.day, "department": "GROCERY", "brand": "National"} for n in PRODUCTS)
            found.append(Landing("products", self.day, "products", products))
        return tuple(found), start

    def truth(self) -> Truth:
        """What the features are to be counted from now."""
        return Truth(tuple(row for _, row in self.kept.values()), tuple(self.promotions), self.landed, self.day + timedelta(days=1))

    def _promotion(self) -> Landing:
        row = {"product_id": len(self.promotions) + 1, "store_id": 10, "display_location": "5", "mailer_location": "0", "week": 10}
        self.promotions.append(row)
        return Landing("promotions", self.day, f"promotions_{len(self.promotions)}", (row,))

    def _purchases(self, folder: date, name: str, count: int) -> Landing:
        """New purchases of the day or of one shortly before it, some rows twice, some broken, and, in the newest folder, corrections of older ones."""
        rows = [self._purchase(folder) for _ in range(count)]
        for row in rows:
            self.kept[row["basket_id"], row["product_id"]] = (folder, row)
        if self.random.random() < 0.5:
            rows.append(dict(self.random.choice(rows)))
        older = [(key, row) for key, (day, row) in self.kept.items() if day < folder]
        if folder == self.day and older:
            for key, row in self.random.sample(older, min(2, len(older))):
                corrected = {**row, "quantity": row["quantity"] + 1, "sales_value": row["sales_value"] + 0.25}
                rows.append(corrected)
                self.kept[key] = (folder, corrected)
        if self.random.random() < 0.6:
            rows.append({**self._purchase(folder), **self.random.choice(({"household_id": None}, {"sales_value": 1e300}, {"quantity": -1}))})
        if self.random.random() < 0.2:
            rows.append({**self._purchase(folder), "product_id": UNKNOWN})
            self.kept[rows[-1]["basket_id"], UNKNOWN] = (folder, rows[-1])
        self.random.shuffle(rows)
        self.landed += len(rows)
        self.files.append(Landing("transactions", folder, name, tuple(rows)))
        return self.files[-1]

    def _purchase(self, folder: date) -> Row:
        self.baskets += 1
        day = max(FIRST_DAY, folder - timedelta(days=self.random.choice((0, 0, 0, 3))))
        at = datetime.combine(day, datetime.min.time()) + timedelta(seconds=self.random.randrange(86_400))
        cents = self.random.randrange(10, 2_000)
        return purchase(
            self.baskets,
            product=self.random.choice(PRODUCTS),
            customer=self.random.choice(CUSTOMERS),
            at=at,
            quantity=self.random.randint(1, 5),
            sales_value=cents / 100,
            retail_disc=self.random.choice((0.0, 0.5)),
        )


@dataclass
class Made:
    """What there is to serve, tidy and rebuild after the steps so far."""

    releases: int = 0
    serving: int = -1
    training: list[str] = field(default_factory=list)


def steps(seed: int, episode: int, count: int = STEPS) -> Iterator[Step]:
    """The steps of an episode, in order."""
    random = Random(f"{seed}/{episode}")
    tills, made = Tills(random), Made()
    for number in range(count):
        kind = ("run", "serve")[number] if number < 2 else _kind(random, made)
        yield _step(kind, random, tills, made)


def _kind(random: Random, made: Made) -> str:
    weights = {
        "run": 5,
        "two-runs": 3,
        "run-and-tidy": 2,
        "serve": 12 if made.serving < made.releases - 1 else 0,
        "serve-back": 3 if made.releases > 1 and made.serving == made.releases - 1 else 0,
        "optimize": 3,
        "vacuum": 3,
        "create": 4 if len(made.training) < TRAINING_SETS else 0,
        "rebuild": 3 if made.training else 0,
    }
    return random.choices(list(weights), list(weights.values()))[0]


def _step(kind: str, random: Random, tills: Tills, made: Made) -> Step:
    landings: tuple[Landing, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ((kind,),)
    back_to, lost = None, ""
    if kind in ("run", "two-runs", "run-and-tidy"):
        landings, start = (tills.next()) if made.releases else (tills.open(), FIRST_DAY)
        made.releases += 1
        run = ("run", "--start", str(start), "--end", str(tills.day + timedelta(days=1)))
        commands = {
            "run": (run,),
            "two-runs": (run, run),
            "run-and-tidy": (run, random.choice((("optimize",), ("vacuum", "--days", "1", "--delete")))),
        }[kind]
    elif kind == "serve":
        made.serving = made.releases - 1
    elif kind == "serve-back":
        made.serving = back_to = random.randrange(made.releases - 1)
        commands = (("serve", "--release"),)
    elif kind == "vacuum":
        commands = (("vacuum", "--delete"),)
    elif kind == "create":
        name = f"set_{len(made.training) + 1}"
        made.training.append(name)
        commands = (("training-set", "create", "--name", name, "--service", random.choice(("recommendation_v1", "customer_value_v1")), "--labels", LABELS),)
    elif kind == "rebuild":
        lost = random.choice(made.training)
        commands = (("training-set", "rebuild", lost),)
    kills = random.randint(3, 5)
    draws = tuple((random.random(), random.random(), random.random()) for _ in range(kills))
    return Step(kind, commands, kills, tills.truth(), landings, back_to, lost, draws)


LABELS = """
    SELECT customer_id, product_id, max(event_timestamp) AS event_timestamp, count(*) > 1 AS bought FROM gold.customer_product
    WHERE event_timestamp <= (SELECT min(event_timestamp) + INTERVAL 3 DAY FROM gold.customer_product) GROUP BY ALL ORDER BY ALL"""
