"""`make chaos KILLS=200`: kill operations at random until so many were killed, compare each time with a control, and report.

    python -m tests.chaos --kills 200 --seed 7
    python -m tests.chaos --replay FOLDER/failure.json       # the episode that diverged, with the same kills at the same points
    python -m tests.chaos --sabotage no-lock --kills 100     # with a guard broken: has to fail

Exit status 1 on any divergence. The folder of an episode that diverged is kept: both homes, the landing zone, what each process said.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos import episode, sabotage
from tests.chaos.episode import Episode, Outcome, plain
from tests.chaos.schedule import Step

EPISODES = 10_000


def main(arguments: list[str] | None = None) -> int:
    """0 when every home was what its control was."""
    options = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="millrace-chaos-"))
    started, outcomes = time.monotonic(), list[Outcome]()
    seed, first, script = options.seed, options.episode or 0, None
    if options.replay:
        seed, first, script = episode.script(options.replay.read_text())
    print(f"seed {seed}, {options.kills} kills, in {folder}" + (f", with {options.sabotage} broken" if options.sabotage else ""), flush=True)
    for number in range(first, first + 1 if options.replay or options.episode is not None else EPISODES):
        done = sum(len(one.kills) for one in outcomes)
        if done >= options.kills:
            break

        def say(outcome: Outcome, step: Step, number: int = number, done: int = done) -> None:
            kills = done + len(outcome.kills)
            print(
                f"{time.monotonic() - started:6.0f} s  episode {number}, step {len(outcome.steps)}: {step.kind:13} {kills:4}/{options.kills} kills", flush=True
            )

        here = folder / f"episode-{number}"
        outcomes.append(Episode(here, seed, number, script, options.sabotage).run(options.kills - done, say))
        if outcomes[-1].divergences:
            _tell(outcomes[-1], here)
            if options.sabotage:
                break
        else:
            shutil.rmtree(here)
    found = report(seed, outcomes, time.monotonic() - started, options.sabotage)
    print(page(found))
    if options.report:
        options.report.write_text(json.dumps(found, indent=1) + "\n")
    if not options.folder and not found["divergences"]:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if found["divergences"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="stop after so many (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="of the schedule: what lands, what is done, where it is killed (default: 1)")
    parser.add_argument("--episode", type=int, help="only this one")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="the failure.json of an episode: the same steps, killed at the same points")
    parser.add_argument("--sabotage", choices=sorted(sabotage.ACTS), default="", help="break this guard in the home that is killed")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder, removed when all is well)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report as JSON, too")
    return parser


def _tell(outcome: Outcome, folder: Path) -> None:
    print(f"\nDIVERGED: episode {outcome.episode} after {len(outcome.kills)} kills")
    for divergence in outcome.divergences[:8]:
        print(f"  {divergence}")
    if outcome.kills:
        print(f"  the last kill: {outcome.kills[-1]}")
    print(f"  kept: {folder}")
    print(f"  again: .venv/bin/python -m tests.chaos --replay {folder / 'failure.json'}")
    print(f"  or:    .venv/bin/python -m tests.chaos --seed {outcome.seed} --episode {outcome.episode}\n", flush=True)


def report(seed: int, outcomes: list[Outcome], seconds: float, broken: str) -> dict[str, Any]:
    """All figures."""
    kills = [kill for one in outcomes for kill in one.kills]
    return {
        "seed": seed,
        "sabotage": broken,
        "seconds": round(seconds, 1),
        "episodes": len(outcomes),
        "steps": dict(Counter(step for one in outcomes for step in one.steps).most_common()),
        "kills": len(kills),
        "missed": sum(one.missed for one in outcomes),
        "divergences": sum(len(one.divergences) for one in outcomes),
        "by_operation": dict(Counter(kill.kind for kill in kills).most_common()),
        "by_mode": dict(Counter(kill.mode for kill in kills).most_common()),
        "by_phase": dict(Counter(kill.hit for kill in kills).most_common()),
        "after_first_commit": sum(kill.moved > 0 for kill in kills),
        "answers": sum(one.answers for one in outcomes),
        "values_by_brute_force": sum(one.compared for one in outcomes),
        "leftover_files": sum(one.leftovers for one in outcomes),
        "outcomes": [plain(one) for one in outcomes],
    }


def page(found: dict[str, Any]) -> str:
    """For people."""
    counted = {name: ", ".join(f"{key} {value}" for key, value in found[name].items()) for name in ("by_operation", "by_mode", "by_phase", "steps")}
    return "\n".join(
        (
            f"\n{found['kills']} kills in {found['seconds']:.0f} s, seed {found['seed']}: {found['divergences']} divergences",
            f"  killed:      {counted['by_operation']}",
            f"  how:         {counted['by_mode']}; {found['missed']} operations ended before their kill",
            f"  where:       {counted['by_phase']}; {found['after_first_commit']} after a first commit of the step",
            f"  steps:       {counted['steps']}, in {found['episodes']} episodes",
            f"  readers:     {found['answers']:,} answers during all of it, each one release's; {found['values_by_brute_force']:,} values by brute force",
            f"  left behind: {found['leftover_files']} files that a vacuum would take",
        )
    )


if __name__ == "__main__":
    sys.exit(main())
