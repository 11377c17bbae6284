"""A lake that was published and is then fed with bad input: what must not change is photographed before and after."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lake import settings

DAY, NEXT, END = "2017-03-01", "2017-03-02", "2017-03-03"


CHAIN = ("bronze.tickets", "silver.tickets", "gold.guest_activity")


@pytest.fixture
def run_tickets(home: Path) -> Callable[..., dict]:
    """Carry an interval through the tables of tickets only, and return the reports by table: what a whole run does
    with them, in a fifth of its time.
    """
    from millrace import pipeline

    def carry(start: str, end: str, through: str = "silver.tickets") -> dict:
        interval = pipeline.check_interval(start, end)
        return {name: pipeline.run_table(name, interval, "test") for name in CHAIN[: CHAIN.index(through) + 1]}

    return carry


def _photograph(tables: tuple[str, ...]) -> dict[str, str]:
    """Every file of these tables, or of the whole lake, with a hash of its bytes. What was only staged does not count,
    nor the record of which files a run has looked at.
    """
    roots = [settings.table_path(name) for name in tables] or [settings.lake()]
    files = [
        file
        for root in roots
        for file in root.rglob("*")
        if file.is_file() and not {"_stage", "_landed"} & {*file.parts}
    ]
    return {str(file.relative_to(settings.lake())): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def untouched(home: Path) -> Callable[..., AbstractContextManager[None]]:
    """What happens inside leaves the named tables, or the whole lake, byte for byte as they were."""

    @contextmanager
    def watch(*tables: str) -> Iterator[None]:
        before = _photograph(tables)
        yield
        assert _photograph(tables) == before

    return watch


@pytest.fixture
def refused(run: Callable, untouched: Callable) -> Callable[..., None]:
    """The run over both days fails with an error whose message holds these texts, and the lake stays as it was."""

    def refuse(error: type[Exception], *told: str, start: str = DAY, end: str = END) -> None:
        with untouched(), pytest.raises(error) as caught:
            run(start, end)
        for text in told:
            assert text in str(caught.value)

    return refuse
