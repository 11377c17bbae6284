"""A diverged episode can be repeated from what it wrote, and a divergence is the exit status."""

from __future__ import annotations

import json
from pathlib import Path

from tests.chaos import __main__ as chaos
from tests.chaos import episode
from tests.chaos.episode import EpisodeResult, Kill
from tests.chaos.kill_points import KillPoint

POINT = KillPoint("rename lake/_releases/#.json", 1)
KILLS = [Kill(2, "run", "delayed", 0.01, POINT, hit="release", moved=3), Kill(3, "serve", "clock", 0.2, hit="pointer")]


def test_the_kills_of_a_failure_come_back_as_they_were() -> None:
    result = EpisodeResult(7, 3, KILLS, divergences=["step 3, at the end: rows differ"], sabotage="no-lock")
    assert episode.from_json(json.dumps(episode.to_json(result))) == result


def test_a_divergence_is_shown_with_the_command_that_repeats_it(tmp_path: Path) -> None:
    result = EpisodeResult(7, 3, KILLS, divergences=["step 3, at the end: rows differ"])
    shown = chaos.failure(result, tmp_path)
    assert "rows differ" in shown
    assert f"--replay {tmp_path / 'failure.json'}" in shown
    assert "--seed 7 --episode 3" in shown


def test_the_report_counts_kills_by_phase_and_divergences() -> None:
    results = [EpisodeResult(7, 0, KILLS), EpisodeResult(7, 1, KILLS[:1], divergences=["x"])]
    content = chaos.report(7, results, 60.0, "")
    assert (content["kills"], content["divergences"], content["after_a_commit"]) == (3, 1, 2)
    assert content["by_phase"] == {"release": 2, "pointer": 1}
    assert "3 kills in 60 s, seed 7: 1 divergences" in chaos.page(content)
