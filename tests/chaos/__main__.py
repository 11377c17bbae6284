"""`make chaos`: kill operations at random, compare each time with an undisturbed control, and report.

    python -m tests.chaos --kills 200 --seed 7
    python -m tests.chaos --replay FOLDER/failure.json       # repeat a diverged episode, killed at the same kill points
    python -m tests.chaos --sabotage no-lock --kills 100     # break a guard: must exit with 1

Exit status 1 on any divergence. The folder of a diverged episode is kept: both homes, the landing zone, all output.
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

from tests.chaos import operations, sabotage
from tests.chaos.episode import Episode, EpisodeResult, from_json, to_json
from tests.chaos.schedule import Step

EPISODES = 10_000


def main(arguments: list[str] | None = None) -> int:
    """0 when every home equaled its control, 1 otherwise."""
    options = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")
    operations.isolate()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="millrace-chaos-"))
    started, results = time.monotonic(), list[EpisodeResult]()
    seed, first, script, broken = options.seed, options.episode or 0, None, options.sabotage
    if options.replay:
        former = from_json(options.replay.read_text())
        seed, first, script, broken = former.seed, former.episode, former.kills, former.sabotage
    only = options.replay or options.episode is not None
    print(f"seed {seed}, {options.kills} kills in {folder}{f', sabotage: {broken}' * bool(broken)}", flush=True)
    for number in range(first, first + 1 if only else EPISODES):
        done = sum(len(result.kills) for result in results)
        if done >= options.kills:
            break

        def on_step(result: EpisodeResult, step: Step, number: int = number, done: int = done) -> None:
            kills, seconds = done + len(result.kills), time.monotonic() - started
            at = f"episode {number}, step {len(result.steps)}"
            print(f"{seconds:6.0f} s  {at}: {step.kind:13} {kills:4}/{options.kills} kills", flush=True)

        episode = Episode(folder / f"episode-{number}", seed, number, script, broken)
        results.append(episode.run(options.kills - done, on_step))
        if results[-1].divergences:
            print(failure(results[-1], episode.folder), flush=True)
            if broken:
                break
        else:
            shutil.rmtree(episode.folder)
    content = report(seed, results, time.monotonic() - started, broken)
    print(page(content))
    if options.report:
        options.report.write_text(json.dumps(content, indent=1) + "\n")
    if not options.folder and not content["divergences"]:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if content["divergences"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200, help="stop after so many (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="what lands, what runs, where it is killed (default: 1)")
    parser.add_argument("--episode", type=int, help="run only this episode")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="a failure.json: same steps, same kill points")
    parser.add_argument("--sabotage", choices=sorted(sabotage.ACTS), default="", help="break this guard in the victim")
    parser.add_argument("--folder", type=Path, help="working folder (default: a temporary one)")
    parser.add_argument("--report", type=Path, metavar="FILE", help="also write the report as JSON")
    return parser


def failure(result: EpisodeResult, folder: Path) -> str:
    """What diverged, and how to repeat it."""
    python = ".venv/bin/python -m tests.chaos"
    lines = [f"\nDIVERGED: episode {result.episode} after {len(result.kills)} kills"]
    lines += [f"  {divergence}" for divergence in result.divergences[:8]]
    if result.kills:
        lines.append(f"  last kill: {result.kills[-1]}")
    lines += [
        f"  kept:      {folder}",
        f"  repeat:    {python} --replay {folder / 'failure.json'}",
        f"  or:        {python} --seed {result.seed} --episode {result.episode}\n",
    ]
    return "\n".join(lines)


def report(seed: int, results: list[EpisodeResult], seconds: float, broken: str) -> dict[str, Any]:
    """All figures as plain JSON."""
    kills = [kill for result in results for kill in result.kills]
    return {
        "seed": seed,
        "sabotage": broken,
        "seconds": round(seconds, 1),
        "episodes": len(results),
        "kills": len(kills),
        "missed": sum(result.missed for result in results),
        "divergences": sum(len(result.divergences) for result in results),
        "by_operation": _counts(kill.kind for kill in kills),
        "by_mode": _counts(kill.mode for kill in kills),
        "by_phase": _counts(kill.hit for kill in kills),
        "after_a_commit": sum(kill.moved > 0 for kill in kills),
        "steps": _counts(step for result in results for step in result.steps),
        "requests": sum(result.requests for result in results),
        "values_by_brute_force": sum(result.values for result in results),
        "leftover_files": sum(result.leftover_files for result in results),
        "results": [to_json(result) for result in results],
    }


def _counts(names: Any) -> dict[str, int]:
    return dict(Counter(names).most_common())


def page(content: dict[str, Any]) -> str:
    """The figures for people."""
    lists = ("by_operation", "by_mode", "by_phase", "steps")
    listed = {name: ", ".join(f"{key} {count}" for key, count in content[name].items()) for name in lists}
    lines = (
        f"\n{content['kills']} kills in {content['seconds']:.0f} s, seed {content['seed']}:"
        f" {content['divergences']} divergences",
        f"  killed:   {listed['by_operation']}",
        f"  mode:     {listed['by_mode']}; {content['missed']} operations ended before their kill",
        f"  phase:    {listed['by_phase']}; {content['after_a_commit']} after a commit of the step",
        f"  steps:    {listed['steps']}; {content['episodes']} episodes",
        f"  online:   {content['requests']:,} requests while processes were killed;"
        f" {content['values_by_brute_force']:,} values compared with brute force",
        f"  leftover: {content['leftover_files']} files that no version needs",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
