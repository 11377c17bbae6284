"""Print the recommender's results in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from millrace.show import Grid, new_grid

if TYPE_CHECKING:
    from grocery.recommender.serving import Recommendation
    from grocery.recommender.tracking import Link


def model(about: dict[str, Any]) -> Grid:
    """How good a model is beside its baselines, and what it was made from."""
    grid = new_grid(
        f"Model {about['name']}: {about['rows']:,} rows of {about['service']}, release {about['release']}",
        "on the weeks held back",
    )
    for name in ("recall@10", "95 %", "NDCG@10", "95 % ", "model's NDCG lead", "95 %  "):
        grid.add_column(name, justify="right")
    model_quality = about["quality"]["model"]
    for name, figures in about["quality"].items():
        leads = (
            (f"{model_quality['ndcg_lead']:+.4f}", _interval(model_quality["ndcg_lead_interval"]))
            if name == about["against"]
            else ("", "")
        )
        grid.add_row(
            name,
            f"{figures['recall']:.4f}",
            _interval(figures["recall_interval"]),
            f"{figures['ndcg']:.4f}",
            _interval(figures["ndcg_interval"]),
            *leads,
        )
    weeks = about["held_back_weeks"]
    grid.caption = Text(
        f"{len(weeks)} weeks from {weeks[0]} on, {model_quality['customers']:,} customers; {about['retrieved']:.1%} of"
        f" what was bought was considered; training set {about['training_set']}, digest"
        f" {about['training_set_digest'][:12]}; seed {about['seed']}",
        style="table.caption",
    )
    return grid


def _interval(ends: Sequence[float]) -> str:
    return f"{ends[0]:.4f} to {ends[1]:.4f}"


def model_origin(link: Link) -> Grid:
    """What a model was made from."""
    grid = new_grid(f"Model {link.model}", "what", "value")
    grid.add_row("digest", link.digest[:16])
    grid.add_row("MLflow run", link.run or "none")
    for role, name in zip(("learned from", "judged on"), link.training_sets, strict=True):
        grid.add_row(role, name)
    grid.add_row("release", str(link.release))
    for table, version in link.tables.items():
        grid.add_row(f"  {table}", f"version {version}")
    return grid


def recommendations(customer: int, products: Sequence[Recommendation]) -> Grid:
    """The products that a customer will most likely buy within a week."""
    grid = new_grid(f"Customer {customer}, the next seven days", "product", "department", "category")
    grid.add_column("score", justify="right")
    for product in products:
        grid.add_row(str(product.product_id), product.department, product.category, f"{product.score:.3f}")
    return grid
