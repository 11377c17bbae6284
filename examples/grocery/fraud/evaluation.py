"""Measure how well baskets with invented fraud are found: a model against two rules, on days after those they know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from grocery.fraud.injection import FraudError

VELOCITY = tuple(f"{what}_{window}" for what in ("purchases", "stores") for window in ("10m", "1h", "24h"))
AMOUNT = ("line_to_mean_90d",)
BASKET, LABEL, AT = "basket_id", "is_fraud", "event_timestamp"
FIRST, SECOND = 0.5, 0.65
"""The shares of the days after which thresholds are chosen, and after which nothing is learned any more."""
CANDIDATES = 400


@dataclass(frozen=True)
class Periods:
    """The days on which a model learns [start, choose), thresholds are chosen [choose, test), and all is measured
    [test, end).
    """

    start: date
    choose: date
    test: date
    end: date

    @classmethod
    def of(cls, labels: pd.DataFrame) -> Periods:
        """Cut the days of the labels."""
        start, end = labels["at"].min().date(), labels["at"].max().date() + timedelta(days=1)
        days = (end - start).days
        return cls(start, start + timedelta(days=int(days * FIRST)), start + timedelta(days=int(days * SECOND)), end)

    def first(self, lines: pd.DataFrame) -> pd.DataFrame:
        """The lines to learn from."""
        return _between(lines, self.start, self.choose)

    def second(self, lines: pd.DataFrame) -> pd.DataFrame:
        """The lines to choose thresholds on."""
        return _between(lines, self.choose, self.test)

    def third(self, lines: pd.DataFrame) -> pd.DataFrame:
        """The lines to measure on."""
        return _between(lines, self.test, self.end)


def _between(lines: pd.DataFrame, start: date, end: date) -> pd.DataFrame:
    since, until = (pd.Timestamp(day, tz="UTC") for day in (start, end))
    return lines[(lines[AT] >= since) & (lines[AT] < until)]


def judge(lines: pd.DataFrame, labels: pd.DataFrame, periods: Periods) -> dict[str, Any]:
    """The figures of the model (`score`) and of the best velocity and amount rule, by basket: a basket is flagged when
    one of its lines reaches the threshold. Thresholds are those with the best F1 in the second period.
    """
    chosen, measured = _baskets(periods.second(lines)), _baskets(periods.third(lines))
    if not chosen[LABEL].any() or not measured[LABEL].any():
        raise FraudError(
            f"there is no invented fraud from {periods.choose} to {periods.test}, or from there to {periods.end}."
            " Invent more: millrace fraud inject"
        )
    kinds = labels.set_index(BASKET)["kind"]
    methods = {
        "model": _choose(chosen, ("score",)),
        "velocity rule": _choose(chosen, VELOCITY),
        "amount rule": _choose(chosen, AMOUNT),
    }
    flags = {name: measured[column] >= threshold for name, (column, threshold) in methods.items()}
    figures = {
        name: {"column": column, "threshold": threshold, **quality(measured, flags[name], kinds)}
        for name, (column, threshold) in methods.items()
    }
    figures["either rule"] = quality(measured, flags["velocity rule"] | flags["amount rule"], kinds)
    for name in ("velocity rule", "amount rule"):
        same = measured["score"].rank(ascending=False, method="first") <= int(flags[name].sum())
        figures[f"model, as many alarms as the {name}"] = quality(measured, same, kinds)
    return {
        "periods": {name: str(day) for name, day in vars(periods).items()},
        "baskets": len(measured),
        "fraudulent": int(measured[LABEL].sum()),
        "methods": figures,
    }


def quality(baskets: pd.DataFrame, flagged: pd.Series, kinds: pd.Series) -> dict[str, Any]:
    """Precision and recall of the flagged baskets, and the recall of each kind of fraud."""
    is_fraud = baskets[LABEL]
    hits = int((flagged & is_fraud).sum())
    kind = kinds.reindex(baskets.index)
    return {
        "flagged": int(flagged.sum()),
        "hits": hits,
        "precision": hits / max(1, int(flagged.sum())),
        "recall": hits / max(1, int(is_fraud.sum())),
        "recall_by_kind": {name: float(flagged[kind == name].mean()) for name in sorted(kind.dropna().unique())},
    }


def _baskets(lines: pd.DataFrame) -> pd.DataFrame:
    """The largest value of each basket's lines."""
    return lines.groupby(BASKET)[[*VELOCITY, *AMOUNT, "score", LABEL]].max().astype({LABEL: bool})


def _choose(baskets: pd.DataFrame, columns: tuple[str, ...]) -> tuple[str, float]:
    """The column and the threshold with the best F1."""
    return max(
        ((column, threshold) for column in columns for threshold in _thresholds(baskets[column])),
        key=lambda choice: _f1(baskets[choice[0]] >= choice[1], baskets[LABEL]),
    )


def _thresholds(values: pd.Series) -> list[float]:
    distinct = np.unique(values.dropna().astype(float))
    if len(distinct) > CANDIDATES:  # the high ones are what matters
        distinct = np.unique(np.quantile(distinct, 1 - np.geomspace(1e-5, 1, CANDIDATES)))
    return [float(value) for value in distinct]


def _f1(flagged: pd.Series, is_fraud: pd.Series) -> float:
    return 2 * float((flagged & is_fraud).sum()) / max(1, int(flagged.sum() + is_fraud.sum()))
