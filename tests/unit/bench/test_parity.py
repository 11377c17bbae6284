"""The certificate sees every difference that matters, and none that does not."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from bench.parity import compared, page
from contracts.model import DOUBLE
from tests.unit.etl.visits import SCHEMA, VISITS, visit


def lake(root: Path, *rows: dict[str, Any], schema: pa.Schema = SCHEMA, files: int = 1) -> Path:
    for part in range(files):
        write_deltalake(
            str(root / "silver" / "visits"), pa.Table.from_pylist(list(rows[part::files]), schema=schema), mode="append"
        )
    return root


def both(tmp_path: Path, ours: list[dict[str, Any]], theirs: list[dict[str, Any]], **other: Any) -> Any:
    return compared(
        VISITS, {"sail": lake(tmp_path / "sail", *ours), "spark": lake(tmp_path / "spark", *theirs, **other)}
    )


def test_order_and_files_do_not_matter(tmp_path: Path) -> None:
    rows = [visit(1), visit(2, visitor="Ä"), visit(2, visitor="Ä")]
    result = both(tmp_path, rows, rows[::-1], files=2)
    assert result.equal
    assert (result.rows, result.differences) == ({"sail": 3, "spark": 3}, [])


@pytest.mark.parametrize(
    "change",
    [
        {"visitor": None},
        {"visitor": ""},
        {"visitor": "Ada"},
        {"visitor": "ada "},
        {"paid": Decimal("1.51")},
        {"paid": None},
        {"weight": 0.5000000000000001},
        {"weight": None},
        {"is_member": False},
        {"visited_at": datetime(2017, 3, 1, 10, 0, 0, 1, tzinfo=UTC)},
        {"booked_date": None},
    ],
)
def test_one_cell_is_a_difference_and_is_quoted(tmp_path: Path, change: dict[str, Any]) -> None:
    result = both(tmp_path, [visit(1), visit(2)], [visit(1), visit(2) | change])
    assert not result.equal
    assert [message.split(" has ")[0] for message in result.differences] == ["only sail", "only spark"]


def test_a_row_that_comes_once_more_is_a_difference(tmp_path: Path) -> None:
    result = both(tmp_path, [visit(1)], [visit(1), visit(1)])
    assert (result.equal, len(result.differences)) == (False, 1)


def test_negative_zero_is_another_number(tmp_path: Path) -> None:
    assert VISITS.column("weight").type == DOUBLE
    assert not both(tmp_path, [visit(1, weight=0.0)], [visit(1, weight=-0.0)]).equal


def test_two_cells_that_swap_their_text_are_a_difference(tmp_path: Path) -> None:
    """Cells are told apart, so that 1 and 23 are not 12 and 3."""
    assert not both(tmp_path, [visit(1, visitor="a\x1fb")], [visit(1, visitor="a")]).equal


def test_another_type_is_a_difference(tmp_path: Path) -> None:
    other = SCHEMA.set(SCHEMA.get_field_index("paid"), pa.field("paid", pa.decimal128(14, 2)))
    result = both(tmp_path, [visit(1)], [visit(1)], schema=other)
    assert not result.equal
    assert result.differences[0].startswith("the schemas differ")


def test_empty_tables_are_equal(tmp_path: Path) -> None:
    assert both(tmp_path, [], []).equal


def test_the_page_says_what_differs(tmp_path: Path) -> None:
    tables = [
        {
            "table": "silver.visits",
            "rows": {"a": 1, "b": 2},
            "fingerprint": {"a": "x" * 64, "b": "y" * 64},
            "equal": False,
            "differences": ["only b has ..."],
        }
    ]
    engines = [
        {"engine": name, "version": "1", "session_s": 0.1, "year_s": 1.0, "day_s": 0.1, "peak_memory_mib": 5}
        for name in ("a", "b")
    ]
    result = page(
        {
            "made_at": "now",
            "interval": ["x", "y"],
            "machine": {"cpus": 2},
            "equal": False,
            "engines": engines,
            "tables": tables,
        }
    )
    assert "TABLES DIFFER" in result
    assert "| silver.visits | 1 / 2 | NO |" in result
    assert "- silver.visits: only b has ..." in result
