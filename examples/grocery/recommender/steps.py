"""The recommender's steps that write to the lake or to lineage: score every customer, record a model's inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from contracts import catalog
from contracts.report import PUBLISHED, TableReport
from features.lake_reader import pinned
from grocery.recommender import model as models
from grocery.recommender import scoring, tracking
from lake import settings
from lineage.record import Artifact, Parent, record_artifact
from millrace import pipeline

JOB = "models.recommender"


@dataclass(frozen=True)
class Scored:
    """A published scoring: its model, its release, the release's horizon as `as_of`, and the table's report."""

    model: str
    release: int
    as_of: str
    report: TableReport

    def __str__(self) -> str:
        report = self.report
        done = "published as" if report.status == PUBLISHED else "there already, in"
        what = f"{report.account.published:,} rows by model {self.model} as of {self.as_of} (release {self.release})"
        return f"{what}: {done} version {report.version} of {settings.table_path(report.table)}"


def score(
    name: str | None = None, number: int | None = None, run_id: str = "scores", parent: Parent | None = None
) -> Scored:
    """Publish the best products of every active customer, by a model as of a release; the newest ones by default.

    Nothing is written if the table already has this scoring.
    """
    table = catalog.table(scoring.TABLE)
    fitted, release = models.load(name), pinned(number)
    artifacts = (_artifact(fitted.about),)
    part = scoring.part(fitted, release)
    report = pipeline.add_part(table, release, part, lambda: scoring.scores(fitted, release), run_id, parent, artifacts)
    return Scored(fitted.about["name"], release.number, release.horizon, report)


def record_model(about: dict[str, Any], parent: Parent | None = None) -> None:
    """Record a kept model's inputs as lineage: the tables of its training sets and labels, at their pinned versions."""
    (link,) = tracking.links(about["name"])
    tags = {"release": str(link.release), "training_set": about["training_set"], "held_back": about["held_back"]}
    record_artifact(JOB, _artifact(about), link.tables, parent=parent, tags=tags)


def _artifact(about: dict[str, Any]) -> Artifact:
    return Artifact(
        kind="MODEL",
        location=str(models.folder() / about["name"]),
        version=about["digest"],
        doc=catalog.table(scoring.TABLE).doc,
        grain="one model per training set, last week and seed",
        owner="ml-platform",
    )
