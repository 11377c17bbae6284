"""How good a ranking is: recall and NDCG of the first ten products of each customer, against what was bought in weeks
that nobody learned from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

TOP = 10
WEEK, CUSTOMER, PRODUCT = "since", "customer_id", "product_id"
DRAWS, SEED = 2000, 7
"""How often the bootstrap draws, and its seed."""
Interval = tuple[float, float]
"""From the 2.5th to the 97.5th percentile."""


@dataclass(frozen=True)
class Quality:
    """Means over the customers and weeks in which one bought anything: `recall` is the share of the products bought
    that stand among the first TOP, `ndcg` also counts how far up.

    The intervals are a bootstrap's over customers, all weeks of one together. `*_lead` are paired differences to
    another ranking, which is 0 for that one itself.
    """

    recall: float
    ndcg: float
    customers: int
    recall_interval: Interval
    ndcg_interval: Interval
    recall_lead: float = 0.0
    ndcg_lead: float = 0.0
    recall_lead_interval: Interval = (0.0, 0.0)
    ndcg_lead_interval: Interval = (0.0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def by_customer(ranked: pd.DataFrame, score: str, bought: pd.DataFrame) -> pd.DataFrame:
    """`recall` and `ndcg` of each week and customer in `bought` (`since`, `customer_id`, `product_id`).

    `ranked` has a row per week, customer and considered product: higher scores first, of equal ones the smaller
    product.
    """
    key = [WEEK, CUSTOMER]
    ordered = ranked.sort_values([*key, score, PRODUCT], ascending=[True, True, False, True], na_position="last")
    first = ordered.groupby(key).head(TOP)
    first = first.assign(position=first.groupby(key).cumcount())[[*key, PRODUCT, "position"]]
    hits = first.merge(bought[[*key, PRODUCT]], on=[*key, PRODUCT])
    gained = (
        hits.assign(gain=_discount(hits["position"])).groupby(key).agg(hits=("position", "size"), gain=("gain", "sum"))
    )
    counted = bought.groupby(key).size().rename("bought").to_frame().join(gained).fillna(0)
    best = np.cumsum(_discount(pd.Series(range(TOP))))[counted["bought"].clip(upper=TOP).astype(int) - 1]
    return pd.DataFrame({"recall": counted["hits"] / counted["bought"], "ndcg": counted["gain"] / best})


def _discount(positions: pd.Series) -> Any:
    return 1 / np.log2(positions.to_numpy() + 2.0)


def qualities(measured: dict[str, pd.DataFrame], against: str) -> dict[str, Quality]:
    """The quality of each ranking, from what `by_customer` says of it, with its lead over the one named `against`."""
    return {name: _quality(one, one - measured[against]) for name, one in measured.items()}


def _quality(one: pd.DataFrame, lead: pd.DataFrame) -> Quality:
    means, leads = one.mean(), lead.mean()
    return Quality(
        recall=float(means["recall"]),
        ndcg=float(means["ndcg"]),
        customers=int(one.index.get_level_values(CUSTOMER).nunique()),
        recall_interval=interval(one["recall"]),
        ndcg_interval=interval(one["ndcg"]),
        recall_lead=float(leads["recall"]),
        ndcg_lead=float(leads["ndcg"]),
        recall_lead_interval=interval(lead["recall"]),
        ndcg_lead_interval=interval(lead["ndcg"]),
    )


def interval(values: pd.Series) -> Interval:
    """Of the mean of a value per week and customer: customers are drawn with replacement, each with all of its weeks,
    because those resemble each other.
    """
    grouped = values.groupby(level=CUSTOMER).agg(["sum", "count"]).to_numpy()
    drawn = np.random.default_rng(SEED).integers(0, len(grouped), (DRAWS, len(grouped)))
    sums = grouped[drawn].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return float(low), float(high)


def retrieved(considered: pd.DataFrame, bought: pd.DataFrame) -> float:
    """The share of all that was bought that was considered at all: what no ranking of it can exceed (before the cut at
    TOP).
    """
    return len(considered.merge(bought, on=[WEEK, CUSTOMER, PRODUCT])) / len(bought)
