"""An error that nothing explains names the line of the project, or the transform, that it comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.errors import ArithmeticException

from contracts import project
from millrace import pipeline, scaffold
from millrace.pipeline import RunError


@pytest.fixture
def transform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The transform of silver.orders in a new project. It raises KeyError."""
    root = scaffold.init(tmp_path / f"{tmp_path.name}_shop").root
    monkeypatch.setenv("MILLRACE_PROJECT", str(root))
    path = root / "transforms" / "silver" / "orders.py"
    path.parent.mkdir(parents=True)
    path.write_text("def clean(orders):\n    return orders['station']\n")
    return path


def test_an_error_of_a_transform_names_its_line(transform: Path) -> None:
    module = project.module("transforms.silver.orders")
    assert module is not None
    with pytest.raises(RunError) as raised, pipeline.translate_errors("silver.orders"):
        module.clean({})
    assert str(raised.value) == (
        "silver.orders: the run failed (KeyError: 'station'). Published tables are intact."
        f" {transform}:2 raised it. Correct that, then run the interval again"
    )


def test_a_missing_column_that_the_engine_finds_later_names_the_transform(transform: Path) -> None:
    """Sail's message, raised by whoever computes the rows."""
    with pytest.raises(RunError) as raised, pipeline.translate_errors("silver.orders"):
        raise ValueError('attribute ObjectName([Identifier("o"), Identifier("station")]) is missing from the schema')
    assert str(raised.value) == (
        "silver.orders: the run failed (there is no column o.station). Published tables are intact. It was raised as"
        f" the rows of {transform} were computed. Correct that, then run the interval again"
    )


@pytest.mark.parametrize("name", ["silver.order_items", "release", "bronze.orders"])
def test_an_error_without_a_transform_names_the_line_that_raised_it(transform: Path, name: str) -> None:
    with (
        pytest.raises(RunError, match=r"test_origins\.py:\d+ raised it\. Correct that, then run"),
        pipeline.translate_errors(name),
    ):
        raise KeyError("station")


def test_an_expression_of_a_contract_that_fails_names_the_contract(transform: Path) -> None:
    """As `where="100 / seconds"` does where a row has 0."""
    contract = transform.parents[2] / "contracts" / "gold" / "customer_orders.py"
    with pytest.raises(RunError) as raised, pipeline.translate_errors("gold.customer_orders"):
        raise ArithmeticException("Divide by zero error")
    assert f"It was raised as the expressions of {contract} were computed. Correct those, then" in str(raised.value)
