"""Show each failure as soon as it happens. A run that is stopped prints no summary, and a run takes minutes."""

from __future__ import annotations

import pytest


def line(report: pytest.TestReport) -> str:
    """The test, the phase if it isn't the test itself, and the last line of what pytest prints about the failure."""
    phase = "" if report.when == "call" else f" ({report.when})"
    crash = getattr(report.longrepr, "reprcrash", None)
    reason = (crash.message if crash else str(report.longrepr)).strip().partition("\n")[0]
    return f"FAILED {report.nodeid}{phase} - {reason}"


class Failures:
    """Prints a line for each failed test."""

    def __init__(self, config: pytest.Config) -> None:
        self.writer = config.get_terminal_writer()

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            if self.writer.width_of_current_line:
                self.writer.line()
            self.writer.line(line(report), red=True)


@pytest.hookimpl(trylast=True)  # after the reporter
def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Failures(config))
