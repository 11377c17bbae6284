"""The way from a release to a judged model: two training sets, a fit, and figures from the week held back beside those of two baselines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from contracts import manifest
from features import registry, training
from features.lake_reader import LakeReader, pinned
from models.recommender import candidates, model
from models.recommender.evaluation import Quality, bought_before, popularity, quality
from models.recommender.model import Model

WEEKS, ONE_IN = 4, 10
"""Weeks to learn from, and how many of the products that were not bought stand for one that is kept."""
Say = Callable[[str], Any]


@dataclass(frozen=True)
class Sets:
    """The training sets by name: the weeks to learn from, and the week held back."""

    learned: str
    held_back: str


def prepare(number: int | None = None, weeks: int = WEEKS, seed: int = model.SEED, say: Say = lambda _: None) -> Sets:
    """Make both training sets of a release (the newest one by default) and of the features as they are defined now; those that are there already are left as they are."""
    one = pinned(number)
    learned, held_back = candidates.weeks(date.fromisoformat(one.horizon), weeks)
    of = f"recommender_r{one.number}_{registry.fingerprint()[:8]}"
    names = Sets(f"{of}_w{weeks}", f"{of}_held_back")
    for name, sql in ((names.learned, candidates.labels_sql(learned, ONE_IN)), (names.held_back, candidates.labels_sql([held_back]))):
        if name in manifest.names():
            say(f"training set {name} is there already")
        else:
            training.create(sql, model.SERVICE, name, release=one.number, seed=seed, say=say)
    return names


def judge(fitted: Model, held_back: str) -> dict[str, Quality]:
    """The model and two baselines on the week held back. What was bought but not considered counts as missed, for all of them."""
    made = manifest.read(held_back)
    week = date.fromisoformat(made.releases[0].horizon) - candidates.WEEK
    data = training.read(held_back).to_pandas()
    scored = data.assign(model=fitted.scores(data), popularity=popularity(data), bought_before=bought_before(data))
    bought = _bought(made.release, week)
    return {name: quality(scored, name, bought) for name in ("model", "bought_before", "popularity")}


def _bought(number: int, week: date) -> pd.DataFrame:
    reader, sql = LakeReader(pinned(number)), candidates.bought_sql(week)
    reader.offer(sql)
    found: pd.DataFrame = reader.connection.sql(sql).to_arrow_table().to_pandas()
    return found


def train(number: int | None = None, weeks: int = WEEKS, seed: int = model.SEED, say: Say = lambda _: None) -> Model:
    """All of it: sets, fit, figures; the model is kept with them."""
    sets = prepare(number, weeks, seed, say)
    say(f"learning from {sets.learned}")
    fitted = model.fit(sets.learned, seed)
    say(f"judging on {sets.held_back}")
    finish(fitted, sets)
    return fitted


def finish(fitted: Model, sets: Sets) -> dict[str, Any]:
    """Judge the model and keep it, with its figures."""
    figures = judge(fitted, sets.held_back)
    fitted.about |= {"held_back": sets.held_back, "quality": {name: one.to_dict() for name, one in figures.items()}}
    model.keep(fitted)
    return fitted.about
