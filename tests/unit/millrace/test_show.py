"""What a terminal, a pipe and a log show of a run."""

import io
import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Console
from rich.table import Table as Grid

from contracts.model import Severity
from contracts.report import CheckResult, RowAccount, TableReport
from expectations.brute_force import Difference, Verification
from millrace import show

QUANTITY = CheckResult("seats_positive", None, Severity.WARNING, False, "seats is 0", 8869)
BELOW = CheckResult("paid_range", "paid", Severity.CRITICAL, False, "paid is below 0", 2)
KEPT = CheckResult("row_count", None, Severity.CRITICAL, True, "no row is left although rows came in")
SECONDS = {"stage": 1.0, "audit": 0.25, "publish": 0.75}
BUSY = TableReport(
    "silver.tickets", "published", 7, RowAccount(1469310, 1469307, 2, 1), SECONDS, (QUANTITY, BELOW, KEPT)
)
CALM = TableReport("bronze.coupons", "published", 1, RowAccount(3, 3, 0, 0), SECONDS)
STILL = TableReport("gold.guest_activity", "unchanged", 12, RowAccount(4, 4, 0, 0))


def plain(grid: Grid) -> str:
    """As a pipe receives it."""
    out = io.StringIO()
    Console(file=out, width=show.PIPE_WIDTH).print(grid)
    return out.getvalue()


def row(text: str, name: str) -> list[str]:
    """The cells of the line that begins with this name."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(name)]
    return line.split()


def test_a_table_in_one_line() -> None:
    assert show.line(CALM) == "bronze.coupons                           3 rows published as version 1 in 2.0 s"


def test_what_is_worth_a_look_stands_at_the_end_of_the_line() -> None:
    message = show.line(BUSY)
    assert (
        message == "silver.tickets                   1,469,307 rows published as version 7 in 2.0 s; 2 quarantined, 1"
        " duplicates, seats is 0: 8,869 rows"
    )


def test_an_unchanged_table_says_so() -> None:
    assert show.line(STILL) == "gold.guest_activity           unchanged at version 12"


def test_lines_have_no_markup_of_their_own() -> None:
    assert not any(re.search(r"\x1b|\[/?\w+\]", show.line(report)) for report in (CALM, BUSY, STILL))


def test_the_accounts_are_plain_text_when_no_terminal_listens() -> None:
    text = plain(show.accounts([BUSY, CALM, STILL]))
    assert "\x1b" not in text
    assert text.startswith("Rows: in = published + quarantined + duplicates")
    assert row(text, "silver.tickets") == [
        "silver.tickets",
        "1,469,310",
        "1,469,307",
        "2",
        "1",
        "7",
        "1.00",
        "0.25",
        "0.75",
        "734,655",
    ]
    assert row(text, "gold.guest_activity") == ["gold.guest_activity", "4", "4", "0", "0", "12", "unchanged"]
    assert "1 of 3 tables were up to date" in text


def test_every_table_is_on_one_line_however_narrow_the_caller_thinks_a_pipe_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    show.console().print(show.accounts([BUSY, CALM, STILL]))
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert row(out, "silver.tickets")[-1] == "734,655"


def test_warnings_are_listed_with_their_rows() -> None:
    text = plain(show.warnings([BUSY, CALM]))
    assert [line.split() for line in text.splitlines() if line.strip().startswith("silver")] == [
        ["silver.tickets", "seats", "is", "0", "8,869"],
        ["silver.tickets", "paid", "is", "below", "0", "2"],
    ]


def test_a_table_that_took_no_time_has_no_speed() -> None:
    text = plain(show.accounts([TableReport("bronze.coupons", "published", 1, RowAccount(3, 3, 0, 0))]))
    assert row(text, "bronze.coupons") == ["bronze.coupons", "3", "3", "0", "0", "1", "0.00", "0.00", "0.00"]


SETTING = {
    "name": "MILLRACE_PUBLIC_FEATURES_URL",
    "value": "https://features.example.com/a/long/path/below/which/it/lies",
    "default": "the nearest folder above the working directory with a `millrace.toml`, else the sample",
    "source": "/run/secrets/public_features_url",
    "section": "Where state lies",
    "problem": "",
}


def test_a_setting_in_a_pipe_is_one_line(capsys: pytest.CaptureFixture) -> None:
    values = {"default": "word " * 100, "value": "x" * 500}
    for grid in show.settings([SETTING, {**SETTING, "name": "MILLRACE_HOME", **values}]):
        show.console().print(grid)
    out = capsys.readouterr().out
    assert row(out, SETTING["name"])[1] == SETTING["value"]
    assert row(out, SETTING["name"])[-1] == SETTING["source"]
    assert row(out, "MILLRACE_HOME")[1] == "x" * 500


def test_a_narrow_terminal_folds_a_setting_and_cuts_nothing() -> None:
    out = io.StringIO()
    for grid in show.settings([SETTING]):
        Console(file=out, width=80).print(grid)
    text = out.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    head, _, *lines = [line for line in text.splitlines()[1:] if line.strip()]
    starts = [head.index(name) for name in ("variable", "value", "default", "from")]
    cells = [
        "".join(line[start:end].strip() for line in lines)
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]
    assert cells == [SETTING[name].replace(" ", "") for name in ("name", "value")] + [cells[2], SETTING["source"]]
    assert cells[2].replace(" ", "") == SETTING["default"].replace(" ", "")


MARKUP = "x [/y][bold]"


def test_cells_and_titles_are_text_and_not_markup() -> None:
    verification = Verification(
        "gold.x", 1, 1, 1, [Difference((MARKUP,), datetime(2017, 1, 1, tzinfo=UTC), MARKUP, MARKUP, f"{MARKUP}\x1b[1m")]
    )
    setting = {**SETTING, "value": MARKUP, "source": MARKUP}
    wrong = {**setting, "problem": "wrong"}
    report = replace(BUSY, checks=(replace(QUANTITY, reason=MARKUP),))
    grids = [
        show.pairs(MARKUP, {MARKUP: MARKUP}),
        show.differences(verification),
        *show.settings([setting, wrong]),
        show.warnings([report]),
        show.sizes([(MARKUP, 1, 1, 1)]),
    ]
    texts = [plain(grid) for grid in grids]
    assert [text.count(MARKUP) for text in texts] == [3, 4, 4, 1, 1]
    assert "\x1b" not in "".join(texts)
    assert f"{MARKUP} (wrong)" in texts[2]


def test_serving_says_that_it_was_compared_with_training() -> None:
    view = {"view": "guest_activity", "rows": 300, "loaded": 3, "seconds": 0.5, "status": "published"}
    served = {
        "release": 1,
        "horizon": "2018-01-02",
        "views": [view],
        "consistency": {"features": [{"compared": 700}, {"compared": 800}]},
    }
    assert "Training and serving compared: 1,500 values of 2 features, all the same" in " ".join(
        plain(show.views(served)).split()
    )
    assert "compared" not in plain(show.views({**served, "consistency": None}))
    assert row(plain(show.views(served)), "guest_activity") == ["guest_activity", "300", "3", "0.50", "6"]
