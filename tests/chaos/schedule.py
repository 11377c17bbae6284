"""The schedule of an episode: files that land, operations, and how each is killed.

A seed gives the same schedule anywhere. Nothing here touches a disk or a clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from random import Random
from typing import Any

from grocery.tests.shop import purchase

FIRST_DAY = date(2017, 3, 1)
CUSTOMERS, PRODUCTS = range(1, 6), range(1, 6)
UNKNOWN = 999
"""A product that no snapshot has. Its purchases raise a warning and are published."""
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
class Expected:
    """The rows that features must be computed from after a step: each purchase once, in its newest valid delivery.

    `landed` counts the rows of all transaction files except exact copies.
    """

    purchases: tuple[Row, ...]
    promotions: tuple[Row, ...]
    landed: int
    horizon: date


@dataclass(frozen=True)
class Step:
    """An operation and its kills.

    `commands` run at the same time. The first one is killed, and finally rerun. The control runs them in turn.
    """

    kind: str
    commands: tuple[tuple[str, ...], ...]
    expected: Expected
    landings: tuple[Landing, ...] = ()
    release_index: int | None = None
    """Position of the release to serve, among the distinct ones; None for the newest."""
    dropped_table: str = ""
    """Training set whose table is removed before the step."""
    random_draws: tuple[tuple[float, float, float], ...] = ()
    """Three numbers in [0, 1) for each kill: how to kill, where, and how much later."""


class LandingGenerator:
    """Lands files as shops do: late, duplicated, corrected, with broken rows."""

    def __init__(self, random: Random) -> None:
        self.random, self.day, self.baskets, self.landed = random, FIRST_DAY, 0, 0
        self.kept: dict[tuple[int, int], tuple[date, Row]] = {}
        self.promotions: list[Row] = []
        self.files: list[Landing] = []

    def first_day(self) -> tuple[Landing, ...]:
        """A file of each table."""
        household = {"income": "50-74K", "kids_count": "0"}
        customers = tuple(
            {"household_id": n, "age": f"{n}5-{n}9", "household_size": str(n), **household} for n in CUSTOMERS
        )
        campaign = {"campaign_id": 1, "campaign_type": "Type A", "start_date": FIRST_DAY, "end_date": date(2017, 3, 31)}
        redemption = {"household_id": 1, "coupon_upc": 100, "campaign_id": 1, "redemption_date": FIRST_DAY}
        others = (
            self._products(manufacturer=5),
            Landing("demographics", FIRST_DAY, "demographics", customers, ".csv"),
            Landing("campaigns", FIRST_DAY, "campaigns", ({"campaign_id": 1, "household_id": 1},), ".csv"),
            Landing("campaign_descriptions", FIRST_DAY, "campaign_descriptions", (campaign,), ".csv"),
            Landing("coupons", FIRST_DAY, "coupons", ({"coupon_upc": 100, "product_id": 1, "campaign_id": 1},), ".csv"),
            Landing("redemptions", FIRST_DAY, "redemptions", (redemption,), ".csv"),
            self._promotion(),
        )
        return (*others, self._purchases(FIRST_DAY, "transactions", 10))

    def next_day(self) -> tuple[tuple[Landing, ...], date]:
        """The files of one of the next days, and the first day of the interval that covers them."""
        self.day += timedelta(days=self.random.choice((1, 1, 2, 9)))
        files, start = [self._purchases(self.day, "transactions", self.random.randint(3, 8))], self.day
        if self.random.random() < 0.5:
            start = FIRST_DAY + timedelta(days=self.random.randrange((self.day - FIRST_DAY).days))
            files.append(self._purchases(start, f"late_{self.day}", 2))
        if self.random.random() < 0.3:
            again = self.random.choice(self.files)
            start = min(start, again.day)
            files.append(Landing(again.table, again.day, f"copy_{self.day}", again.rows))
        if len(self.promotions) < len(PRODUCTS) and self.random.random() < 0.4:
            files.append(self._promotion())
        if self.random.random() < 0.3:
            files.append(self._products(manufacturer=self.day.day))
        return tuple(files), start

    def expected(self) -> Expected:
        """The rows as of now; the horizon is the day after the newest one."""
        purchases = tuple(row for _, row in self.kept.values())
        return Expected(purchases, tuple(self.promotions), self.landed, self.day + timedelta(days=1))

    def _products(self, manufacturer: int) -> Landing:
        known = {"manufacturer_id": manufacturer, "department": "GROCERY", "brand": "National"}
        return Landing("products", self.day, "products", tuple({"product_id": n, **known} for n in PRODUCTS))

    def _promotion(self) -> Landing:
        row = {"product_id": len(self.promotions) + 1, "store_id": 10, "week": 10}
        row |= {"display_location": "5", "mailer_location": "0"}
        self.promotions.append(row)
        return Landing("promotions", self.day, f"promotions_{len(self.promotions)}", (row,))

    def _purchases(self, folder: date, name: str, count: int) -> Landing:
        """New purchases, with duplicates and broken rows; in the newest folder also corrections of older ones."""
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
            broken = self.random.choice(({"household_id": None}, {"sales_value": 1e300}, {"quantity": -1}))
            rows.append({**self._purchase(folder), **broken})
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
class Progress:
    """What there is to serve, compact and rebuild after the steps so far."""

    releases: int = 0
    serving: int = -1
    training: list[str] = field(default_factory=list)


def steps(seed: int, episode: int, count: int = STEPS) -> Iterator[Step]:
    """The steps of an episode, in order."""
    random = Random(f"{seed}/{episode}")
    generator, progress = LandingGenerator(random), Progress()
    for number in range(count):
        kind = ("run", "serve")[number] if number < 2 else _kind(random, progress)
        yield _step(kind, random, generator, progress)


def _kind(random: Random, progress: Progress) -> str:
    weights = {
        "run": 5,
        "two-runs": 3,
        "run-and-tidy": 2,
        "serve": 12 if progress.serving < progress.releases - 1 else 0,
        "serve-back": 3 if progress.releases > 1 and progress.serving == progress.releases - 1 else 0,
        "optimize": 3,
        "vacuum": 3,
        "create": 4 if len(progress.training) < TRAINING_SETS else 0,
        "rebuild": 3 if progress.training else 0,
    }
    return random.choices(list(weights), list(weights.values()))[0]


def _step(kind: str, random: Random, generator: LandingGenerator, progress: Progress) -> Step:
    landings: tuple[Landing, ...] = ()
    commands: tuple[tuple[str, ...], ...] = ((kind,),)
    release_index, dropped_table = None, ""
    if kind in ("run", "two-runs", "run-and-tidy"):
        landings, start = generator.next_day() if progress.releases else (generator.first_day(), FIRST_DAY)
        progress.releases += 1
        run = ("run", "--start", str(start), "--end", str(generator.day + timedelta(days=1)))
        commands = {
            "run": (run,),
            "two-runs": (run, run),
            "run-and-tidy": (run, random.choice((("optimize",), ("vacuum", "--days", "1", "--delete")))),
        }[kind]
    elif kind == "serve":
        progress.serving = progress.releases - 1
    elif kind == "serve-back":
        progress.serving = release_index = random.randrange(progress.releases - 1)
        commands = (("serve", "--release"),)
    elif kind == "vacuum":
        commands = (("vacuum", "--delete"),)
    elif kind == "create":
        name = f"set_{len(progress.training) + 1}"
        progress.training.append(name)
        service = random.choice(("recommendation_v1", "customer_value_v1"))
        commands = (("training-set", "create", "--name", name, "--service", service, "--labels", LABELS),)
    elif kind == "rebuild":
        dropped_table = random.choice(progress.training)
        commands = (("training-set", "rebuild", dropped_table),)
    draws = tuple((random.random(), random.random(), random.random()) for _ in range(random.randint(3, 5)))
    return Step(kind, commands, generator.expected(), landings, release_index, dropped_table, draws)


LABELS = """
    SELECT customer_id, product_id, max(event_timestamp) AS event_timestamp, count(*) > 1 AS bought
    FROM gold.customer_product
    WHERE event_timestamp <= (SELECT min(event_timestamp) + INTERVAL 3 DAY FROM gold.customer_product)
    GROUP BY ALL ORDER BY ALL"""
