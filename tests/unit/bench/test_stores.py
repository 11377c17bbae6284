"""What is said of an offline store: right, wrong with an example, in another order, too few rows, or failed."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench import feast_suite, stores
from bench.stores import DAY, START, Case, label, row

CASE = Case("two", [row(1, "x", START, 1), row(2, "x", START, 2)], [label(2, "x", START + DAY), label(1, "x", START)])


def frame(*rows: tuple[int, Any, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["n", "v", "word"])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (frame((0, 2, "row 2"), (1, 1, "row 1")), ""),
        (frame((1, 1, "row 1"), (0, 2, "row 2")), "right, in another order"),
        (frame((0, 2, "row 2")), "1 rows out for 2 in"),
        (frame((0, 2, "row 2"), (1, None, None)), "1 of 2 wrong: (1, x) gets None, not 1"),
        (frame((0, 2, "row 1"), (1, 1, "row 1")), "1 of 2 wrong: (2, x) gets 2, not 2"),
    ],
)
def test_what_is_said(result: pd.DataFrame, message: str) -> None:
    assert stores.difference(CASE, result) == message


def test_a_store_that_fails_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_case: Case, _folder: Path) -> Any:
        raise ValueError("first line\nsecond line")

    monkeypatch.setitem(stores.STORES, "broken", broken)
    assert stores.run_case("broken", CASE) == "fails: ValueError: first line"


def test_a_seed_makes_the_same_case_again() -> None:
    assert stores.at_random(7) == stores.at_random(7)
    assert stores.at_random(7).rows != stores.at_random(8).rows


def test_a_suite_without_a_checkout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("MILLRACE_FEAST", str(tmp_path))
    assert feast_suite.main() == 2
    assert "Set it to a checkout of github.com/feast-dev/feast" in capsys.readouterr().err
