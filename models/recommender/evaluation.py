"""How good a ranking is: recall and NDCG of the first ten products of each customer, against what was bought in a week that nobody learned from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

TOP = 10
CUSTOMER, PRODUCT = "customer_id", "product_id"


@dataclass(frozen=True)
class Quality:
    """Means over the customers who bought anything: `recall` is the share of the products they bought that stand among the first TOP, `ndcg` also counts how far up (both 0 to 1)."""

    recall: float
    ndcg: float
    customers: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def quality(scored: pd.DataFrame, score: str, bought: pd.DataFrame) -> Quality:
    """`scored` has a row per customer and considered product, higher scores first and of equal ones the smaller product; `bought` a row per customer and product, considered or not."""
    ordered = scored.sort_values([CUSTOMER, score, PRODUCT], ascending=[True, False, True], na_position="last")
    first = ordered.groupby(CUSTOMER).head(TOP)
    first = first.assign(place=first.groupby(CUSTOMER).cumcount())[[CUSTOMER, PRODUCT, "place"]]
    hits = first.merge(bought[[CUSTOMER, PRODUCT]], on=[CUSTOMER, PRODUCT])
    gained = hits.assign(gain=_discount(hits["place"])).groupby(CUSTOMER).agg(hits=("place", "size"), gain=("gain", "sum"))
    wanted = bought.groupby(CUSTOMER).size().rename("wanted").to_frame().join(gained).fillna(0)
    best = np.cumsum(_discount(pd.Series(range(TOP))))[wanted["wanted"].clip(upper=TOP).astype(int) - 1]
    return Quality(float((wanted["hits"] / wanted["wanted"]).mean()), float((wanted["gain"] / best).mean()), len(wanted))


def _discount(places: pd.Series) -> Any:
    return 1 / np.log2(places.to_numpy() + 2.0)


def popularity(data: pd.DataFrame) -> pd.Series:
    """The baseline that knows no customer: the product's buyers of four weeks."""
    return data["buyers_28d"].astype(float)


def bought_before(data: pd.DataFrame) -> pd.Series:
    """The baseline that knows only the pair: in how many baskets of 90 days, and of equal counts the latest."""
    ages = data["days_since_last_purchase"].astype(float)
    return data["purchases_90d"].astype(float).fillna(0) - ages.fillna(ages.max()) / 1e6
