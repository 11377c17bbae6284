"""Train and evaluate a model on a release: two training sets, one fit per held-back week, and figures beside those of
the baselines.

Rolling origin: each held-back week evaluates a model of the weeks right before it. The last week's model, which was not
trained on that week, is kept.
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
"""Number of weeks that a model is trained on, and of held-back weeks."""
Say = Callable[[str], Any]


@dataclass(frozen=True)
class Sets:
    """The names of both training sets: the training weeks and the held-back weeks. A week may be in both, but no model
    uses it for both.
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
    """Create both training sets of a release (by default the newest) with the current feature definitions. Existing
    ones are reused.
    """
    release = pinned(number)
    learned, held = candidates.weeks(date.fromisoformat(release.horizon), weeks, held_back)
    prefix = f"recommender_r{release.number}_{registry.fingerprint()[:8]}_w{weeks}_h{held_back}"
    names = Sets(f"{prefix}_learned", f"{prefix}_held_back")
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
    """Create the training sets, fit and evaluate. Keeps and returns the model of the last held-back week."""
    return finish(prepare(number, weeks, held_back, seed, say), weeks, seed, say)


def finish(sets: Sets, weeks: int = WEEKS, seed: int = model.SEED, say: Say = lambda _: None) -> Model:
    """Fit and evaluate week by week; keep and return the last model, with the figures of all weeks."""
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
    """The figures of a ranking (`since`, `customer_id`, `product_id`, `score`) and of the baselines for the same weeks.

    Purchases that were not considered count as missed, for all rankings.
    """
    reader, weeks = LakeReader(pinned(release)), sorted(ranked[WEEK].dt.date.unique())
    bought = bought_in(reader, weeks)
    measured = {"model": evaluation.by_customer(ranked, "score", bought)}
    by_week = [baselines.rankings(reader, week, seed) for week in weeks]
    for name in by_week[0]:
        measured[name] = evaluation.by_customer(
            pd.concat([rankings[name] for rankings in by_week], ignore_index=True), "score", bought
        )
    figures = evaluation.qualities(measured, baselines.STRONGEST)
    return {
        "held_back_weeks": [str(week) for week in weeks],
        "retrieved": evaluation.retrieved(ranked, bought),
        "against": baselines.STRONGEST,
        "quality": {name: quality.to_dict() for name, quality in figures.items()},
    }


def bought_in(reader: LakeReader, weeks: list[date]) -> pd.DataFrame:
    """The purchases of these weeks: `since`, `customer_id`, `product_id`."""
    sql = candidates.bought_sql(weeks)
    reader.create_views(sql)
    purchases: pd.DataFrame = reader.connection.sql(sql).to_arrow_table().to_pandas()
    return purchases
