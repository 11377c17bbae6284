"""Show each failure as soon as it happens, and end tests that hang. A run takes minutes, and one that is stopped prints
no summary.
"""

from __future__ import annotations

import signal
from typing import Any

import pytest
from pytest_timeout import timeout_sigalrm

AGAIN_SECONDS = 5.0
"""A test that hangs after its timeout is interrupted again: Hypothesis runs a failed example once more."""


def line(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The test, the phase if it isn't the test itself, and the first line of the failure's message."""
    phase = f" ({report.when})" if report.when in ("setup", "teardown") else ""
    crash = getattr(report.longrepr, "reprcrash", None)
    reason = (crash.message if crash else str(report.longrepr)).strip().partition("\n")[0]
    return f"FAILED {report.nodeid}{phase} - {reason}"


class Failures:
    """Prints a line for each failed test."""

    def __init__(self, config: pytest.Config) -> None:
        self.writer = config.get_terminal_writer()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.show(report)

    @pytest.hookimpl(trylast=True)
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.show(report)

    def show(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        """Print the line of a failure."""
        if report.failed:
            if self.writer.width_of_current_line:
                self.writer.line()
            self.writer.line(line(report), red=True)


@pytest.hookimpl(trylast=True)  # after the reporter
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(config))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: Any, settings: Any) -> bool | None:
    """As pytest-timeout does it, and again every few seconds until the test has ended."""
    if settings.method != "signal":
        return None

    def interrupt(_signal: int, _frame: object) -> None:
        timeout_sigalrm(item, settings)

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel
    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, AGAIN_SECONDS)
    return True
