"""Measure a ranking: recall and NDCG of each customer's first ten products, against purchases of held-back weeks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

TOP = 10
WEEK, CUSTOMER, PRODUCT = "since", "customer_id", "product_id"
DRAWS, SEED = 2000, 7
"""Number of bootstrap samples, and their seed."""
Interval = tuple[float, float]
"""From the 2.5th to the 97.5th percentile."""


@dataclass(frozen=True)
class Quality:
    """Means over all weeks and customers with a purchase. `recall` is the share of the purchased products among the
    first TOP; `ndcg` also weighs their ranks.

    Intervals come from a bootstrap over customers, which keeps a customer's weeks together. `*_lead` are paired
    differences to the reference ranking, and 0 for that ranking itself.
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
        """As values that JSON can hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


def by_customer(ranked: pd.DataFrame, score: str, bought: pd.DataFrame) -> pd.DataFrame:
    """`recall` and `ndcg` of each week and customer in `bought` (`since`, `customer_id`, `product_id`).

    `ranked` has a row per week, customer and considered product. Higher scores rank first; ties go to the smaller
    `product_id`.
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
    """The quality of each ranking, from its frame of `by_customer`, with its lead over the ranking named `against`."""
    return {name: _quality(values, values - measured[against]) for name, values in measured.items()}


def _quality(values: pd.DataFrame, lead: pd.DataFrame) -> Quality:
    means, leads = values.mean(), lead.mean()
    return Quality(
        recall=float(means["recall"]),
        ndcg=float(means["ndcg"]),
        customers=int(values.index.get_level_values(CUSTOMER).nunique()),
        recall_interval=interval(values["recall"]),
        ndcg_interval=interval(values["ndcg"]),
        recall_lead=float(leads["recall"]),
        ndcg_lead=float(leads["ndcg"]),
        recall_lead_interval=interval(lead["recall"]),
        ndcg_lead_interval=interval(lead["ndcg"]),
    )


def interval(values: pd.Series) -> Interval:
    """Bootstrap interval of the mean of a value per week and customer.

    It resamples customers with all of their weeks, because the weeks of one customer are correlated.
    """
    grouped = values.groupby(level=CUSTOMER).agg(["sum", "count"]).to_numpy()
    drawn = np.random.default_rng(SEED).integers(0, len(grouped), (DRAWS, len(grouped)))
    sums = grouped[drawn].sum(axis=1)
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [0.025, 0.975])
    return float(low), float(high)


def retrieved(considered: pd.DataFrame, bought: pd.DataFrame) -> float:
    """The share of the purchases that was considered: an upper bound of any ranking's recall, before the cut at TOP."""
    return len(considered.merge(bought, on=[WEEK, CUSTOMER, PRODUCT])) / len(bought)
