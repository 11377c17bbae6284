"""A power cut leaves a table's newest commit empty or cut short: whoever commits, the table is refused with a sentence
and left as it is until that file is removed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from etl import table_reader
from etl.commits import committer
from lake import delta, settings
from lake.delta import CommitMetadata, LakeError
from tests.landing import rows
from tests.unit.etl.visits import VISITS, of, staged, visit

NAME = VISITS.qualified
DAY = of("2017-03-01", "2017-03-02")
COMMITTING: dict[str, Callable[[], object]] = {
    "append": lambda: committer().publish(VISITS, [staged(visit(3))], CommitMetadata("late"), base=2),
    "replace": lambda: committer().publish(VISITS, [staged(visit(3))], CommitMetadata("late"), base=2, replace=[DAY]),
    "optimize": lambda: committer().optimize(VISITS),
    "vacuum": lambda: committer().vacuum(VISITS, timedelta(0)),
}


def photograph() -> dict[str, str]:
    files = [file for file in settings.table_path(NAME).rglob("*") if file.is_file() and "_stage" not in file.parts]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def append(number: int, base: int | None) -> int:
    return committer().publish(VISITS, [staged(visit(number))], CommitMetadata("run"), base=base)


@pytest.mark.parametrize(
    ("content", "state"),
    [(b"", "empty"), (b'{"commitInfo": {"times', "cut short"), (bytes(100), "cut short")],
    ids=["empty", "torn", "zeros"],
)
def test_a_torn_newest_commit_is_refused_until_it_is_removed(
    engine: str, home: Path, content: bytes, state: str
) -> None:
    append(1, None)
    append(2, 1)
    torn = settings.table_path(NAME) / "_delta_log" / f"{2:020}.json"
    torn.write_bytes(content)
    before = photograph()
    for act in COMMITTING.values():
        with pytest.raises(
            LakeError,
            match=(
                rf"^silver\.visits: the newest commit {torn.name} is {state}, as after a power cut\. Remove that file"
                r" and all others"
            ),
        ):
            act()
    assert photograph() == before
    torn.unlink()
    if engine == "spark":
        with pytest.raises(
            LakeError,
            match=(
                r"^silver\.visits: .* CRC file version 2 .*: remove all files of that number from its _delta_log,"
                r" hidden ones too"
            ),
        ):
            append(3, 1)
    for other in torn.parent.glob(f"*{torn.stem}*"):
        other.unlink()
    assert append(3, 1) == 2
    assert [row["visit_id"] for row in rows(NAME, "visit_id")] == [1, 3]
    assert sorted(table_reader.read(NAME, 2).toArrow()["visit_id"].to_pylist()) == [1, 3]
    assert delta.last_commit(delta.open_table(NAME)) == CommitMetadata("run")
