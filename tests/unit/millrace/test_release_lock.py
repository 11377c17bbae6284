"""A release is made under its lock, so that no release is made, and nothing is forgotten or vacuumed, in between."""

from pathlib import Path

import pytest

from contracts.interval import Interval
from lake import publishing
from lake.publishing import PublishError
from millrace import maintenance, pipeline

DAY = Interval.parse("2017-03-01", "2017-03-02")


@pytest.mark.parametrize(
    "act", [lambda: pipeline.make_release(DAY, "test"), lambda: maintenance.forget_releases(2)], ids=["make", "forget"]
)
def test_nobody_makes_or_forgets_a_release_while_another_does(home: Path, monkeypatch: pytest.MonkeyPatch, act) -> None:
    monkeypatch.setattr(publishing, "LOCK_SECONDS", 0.05)
    with (
        publishing.locked("release"),
        pytest.raises(PublishError, match=r"^release: another process has held the lock"),
    ):
        act()
