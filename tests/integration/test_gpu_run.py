"""The comparison that `make gpu-plan` makes where there is a GPU, with Sail in the place of both engines."""

from pathlib import Path

import pytest

from bench import gpu_run
from contracts import catalog
from tests.cinema import Cinema, ticket


@pytest.mark.slow
def test_two_engines_are_run_and_compared_for_real(cinema: Cinema, home: Path) -> None:
    """Sail twice: equal tables, and no GPU."""
    cinema.land("tickets", [ticket(3, at="2017-03-02 10:00")], "2017-03-02")
    sail = {"MILLRACE_ENGINE": "sail"}
    found = gpu_run.run(home / "run", {"one": sail, "other": sail}, "2017-03-01", "2017-03-03", landing=cinema.root)
    assert len(found.tables) == len(catalog.tables())
    assert all(table.equal and table.rows["one"] for table in found.tables)
    assert found.problems == ["no plan of other names an operator of the GPU: RAPIDS took no part"]
