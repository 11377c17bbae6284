"""The way from a release to a judged model: two training sets, a fit for each week held back, and figures beside those
of the baselines.

Rolling origin: every held-back week is judged by a model of the weeks right before it. The model that is kept is that
of the last week, so it has not seen it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from features import registry, training
from features.lake_reader import LakeReader, pinned
from grocery.recommender import baselines, candidates, evaluation, model
from grocery.recommender.evaluation import WEEK
from grocery.recommender.model import Model
from lake import manifest

WEEKS, HELD_BACK = 5, 4
"""Weeks that a model learns from, and weeks held back."""
Say = Callable[[str], Any]


@dataclass(frozen=True)
class Sets:
    """The training sets by name: the weeks to learn from, and the weeks held back. A week may be in both, but never for
    one model.
    """

    learned: str
    held_back: str


def prepare(
    number: int | None = None,
    weeks: int = WEEKS,
    held_back: int = HELD_BACK,
    seed: int = model.SEED,
    say: Say = lambda _: None,
) -> Sets:
    """Make both training sets of a release (the newest one by default) and of the features as they are defined now;
    those that are there already are left as they are.
    """
    release = pinned(number)
    learned, held = candidates.weeks(date.fromisoformat(release.horizon), weeks, held_back)
    of = f"recommender_r{release.number}_{registry.fingerprint()[:8]}_w{weeks}_h{held_back}"
    names = Sets(f"{of}_learned", f"{of}_held_back")
    for name, days in ((names.learned, learned), (names.held_back, held)):
        if name in manifest.names():
            say(f"training set {name} is there already")
        else:
            training.create(
                candidates.labels_sql(days), model.SERVICE, name, release=release.number, seed=seed, say=say
            )
    return names


def train(
    number: int | None = None,
    weeks: int = WEEKS,
    held_back: int = HELD_BACK,
    seed: int = model.SEED,
    say: Say = lambda _: None,
) -> Model:
    """All of it: sets, fits, figures; the model of the last week is kept with them."""
    return finish(prepare(number, weeks, held_back, seed, say), weeks, seed, say)


def finish(sets: Sets, weeks: int = WEEKS, seed: int = model.SEED, say: Say = lambda _: None) -> Model:
    """Fit and judge week by week, keep the last model and its figures."""
    held, ranked = training.read(sets.held_back).to_pandas(), []
    for week in sorted(held["event_timestamp"].dt.date.unique()):
        say(f"learning from the {weeks} weeks before {week}")
        fitted = model.fit(sets.learned, candidates.learned_before(week, weeks), seed)
        rows = held[held["event_timestamp"].dt.date == week]
        ranked.append(
            rows[["customer_id", "product_id"]].assign(**{WEEK: rows["event_timestamp"], "score": fitted.scores(rows)})
        )
    say("judging beside the baselines")
    fitted.about |= {"held_back": sets.held_back} | judge(
        pd.concat(ranked, ignore_index=True), manifest.read(sets.held_back).release, seed
    )
    model.keep(fitted)
    return fitted


def judge(ranked: pd.DataFrame, release: int, seed: int = model.SEED) -> dict[str, Any]:
    """The figures of a ranking (`since`, `customer_id`, `product_id`, `score`) and of the baselines over the same
    weeks. What was bought but not considered counts as missed, for all of them.
    """
    reader, weeks = LakeReader(pinned(release)), sorted(ranked[WEEK].dt.date.unique())
    bought = bought_in(reader, weeks)
    measured = {"model": evaluation.by_customer(ranked, "score", bought)}
    by_week = [baselines.rankings(reader, week, seed) for week in weeks]
    for name in by_week[0]:
        measured[name] = evaluation.by_customer(
            pd.concat([one[name] for one in by_week], ignore_index=True), "score", bought
        )
    figures = evaluation.qualities(measured, baselines.STRONGEST)
    return {
        "held_back_weeks": [str(week) for week in weeks],
        "retrieved": evaluation.retrieved(ranked, bought),
        "against": baselines.STRONGEST,
        "quality": {name: quality.to_dict() for name, quality in figures.items()},
    }


def bought_in(reader: LakeReader, weeks: list[date]) -> pd.DataFrame:
    """What was bought in these weeks: `since`, `customer_id`, `product_id`."""
    sql = candidates.bought_sql(weeks)
    reader.create_views(sql)
    found: pd.DataFrame = reader.connection.sql(sql).to_arrow_table().to_pandas()
    return found
