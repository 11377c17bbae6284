"""An episode: the same steps in two homes over one landing zone.

In one of them, the victim, each step is killed several times, inspected after each kill, and rerun to its end. Then it
must hold what the other one, the control, holds.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from grocery.tests.shop import Shop
from lake import settings
from tests.chaos import expected, online, sabotage, schedule, state
from tests.chaos.kill_points import KillPoint
from tests.chaos.online import Answer, OnlineReader
from tests.chaos.operations import KILLED, Home, Operation, Runner, RunOptions
from tests.chaos.schedule import Landing, Step
from tests.chaos.state import HomeReader, HomeState

REAL, CLOCK, DELAYED = 0.08, 0.23, 0.45
"""Cumulative shares: a real process, by the clock, milliseconds after a kill point. The rest die at a kill point."""
WEIGHTS = {"lock": 1, "lineage": 1, "data docs": 1, "registry": 1, "stage": 1, "links": 1, "other": 1}
"""Weight of a phase in the draw; 3 for those that change what readers see."""
MAX_DELAY = 0.03
BOTH = 0.3
"""Share of the kills beside a second command that kill that one as well."""
SAME_FILE = "the same file byte for byte"


@dataclass(frozen=True)
class Kill:
    """One kill: what it takes to repeat it, and where it hit. `mode` is real, clock, delayed or point."""

    step: int
    kind: str
    mode: str
    delay: float = 0.0
    point: KillPoint | None = None
    both: bool = False
    hit: str = "start"
    """The part of the operation that was killed."""
    moved: int = 0
    """Tables whose version had changed since the step began."""


@dataclass
class EpisodeResult:
    """What happened in an episode."""

    seed: int
    episode: int
    kills: list[Kill] = field(default_factory=list)
    missed: int = 0
    """Operations that ended before their kill."""
    steps: list[str] = field(default_factory=list)
    divergences: list[str] = field(default_factory=list)
    requests: int = 0
    values: int = 0
    """Online values that were compared with brute force."""
    leftover_files: int = 0
    sabotage: str = ""
    """The guard that was broken."""


class DivergedError(Exception):
    """The victim is not what the control is. Nothing after it would mean anything."""


class Episode:
    """Runs in `folder`. `script` repeats recorded kills instead of drawing new ones; `broken` is a sabotage."""

    def __init__(
        self, folder: Path, seed: int, number: int, script: list[Kill] | None = None, broken: str = ""
    ) -> None:
        self.folder, self.seed, self.number = folder.resolve(), seed, number
        self.script, self.sabotage = script, broken
        landing = self.folder / "landing"
        self.control, self.victim = Home(self.folder / "control", landing), Home(self.folder / "victim", landing)
        self.shop, self.runner = Shop(landing), Runner(self.folder / "processes")
        self.states = {home.path: HomeReader(home.path) for home in (self.control, self.victim)}
        self.result = EpisodeResult(seed, number, sabotage=broken)
        self.before, self.served = HomeState(), list[Answer | None]([None])
        self.releases: list[schedule.Expected] = []
        self.reader: OnlineReader | None = None
        self.at = 0

    def run(self, most: int, on_step: Callable[[EpisodeResult, Step], Any]) -> EpisodeResult:
        """All steps, or as many as `most` kills take. Stops at the first divergence and writes `failure.json`."""
        try:
            for at, step in enumerate(schedule.steps(self.seed, self.number)):
                if len(self.result.kills) >= most:
                    break
                self.at = at
                self._step(step, most - len(self.result.kills))
                self.result.steps.append(step.kind)
                on_step(self.result, step)
            self._read_again()
        except DivergedError:
            pass
        finally:
            self.runner.close()
            if self.reader:
                self.result.divergences += self._with_step(self.reader.end(), "at the end")
                self.result.requests += self.reader.requests
        if self.result.divergences:
            (self.folder / "failure.json").write_text(json.dumps(to_json(self.result), indent=1))
        return self.result

    def _step(self, step: Step, most: int) -> None:
        for file in step.landings:
            self.shop.land(file.table, [dict(row) for row in file.rows], file.day, file.name, file.suffix)
        if step.landings:
            self.releases.append(step.expected)
        if step.dropped_table:
            for home in (self.control, self.victim):
                shutil.rmtree(home.path / "lake" / "training" / step.dropped_table)
        points, seconds = self._undisturbed(step)
        control = self._state(self.control)
        self._require_none(control.problems, "in the control")
        answers = self._answers(step, control)
        if self.reader:
            self._require_none(self.reader.allow(answers), "before the step")
        self._disturbed(step, points, seconds, control, answers, most)
        now = self._state(self.victim)
        self._require_none(state.differences(control, now), "after the rerun")
        if step.kind.startswith("serve"):
            if online.current_answer(self.victim) != answers[-1]:
                self._require_none(["the online store serves other values than the control"], "after the rerun")
            self._require_none(self._inconsistencies(), "after the rerun")
            self.reader = self.reader or OnlineReader(self.runner.server, self.victim, answers[-1:])
        if self.reader:
            self._require_none(self.reader.allow(answers[-1:]), "during the step")
        self.before, self.served = now, answers[-1:]

    def _undisturbed(self, step: Step) -> tuple[list[KillPoint], float]:
        """Run the step in the control. Returns the kill points that its first command passed, and its seconds."""
        points: list[KillPoint] = []
        seconds = 0.0
        for at, command in enumerate(dict.fromkeys(step.commands)):
            record = self.folder / "points.json"
            operation = self.runner.start(
                self.control, self._numbered(self.control, step, command), RunOptions(record=record, pages=False)
            )
            self._finish(operation, f"{' '.join(command)}, in the control,")
            if not at:
                points = [KillPoint(*point) for point in json.loads(record.read_text())]
                seconds = time.monotonic() - operation.started
        return points, seconds

    def _numbered(self, home: Home, step: Step, command: tuple[str, ...]) -> tuple[str, ...]:
        """The command line with the number of the release to serve, which each home counts by itself."""
        if step.release_index is None:
            return command
        return (*command, str(self._state(home).distinct_releases[step.release_index].number))

    def _answers(self, step: Step, control: HomeState) -> list[Answer | None]:
        """Answers that readers may get during the step, the last one for good; the control's equals brute force."""
        if step.landings:
            wrong = expected.silver_differences(step.expected, self.control.path / "lake")
            self._require_none(wrong, "in the control, by brute force")
        if not step.kind.startswith("serve"):
            return self.served
        index = len(control.distinct_releases) - 1 if step.release_index is None else step.release_index
        correct, answer = expected.answer(self.releases[index], self._customers()), online.current_answer(self.control)
        self.result.values += sum(len(values) for _, values in correct)
        self._require_none(expected.differences(correct, answer)[:5], "in the control, by brute force")
        return [*self.served, answer]

    def _customers(self) -> Landing:
        first = next(schedule.steps(self.seed, self.number, 1))
        return next(file for file in first.landings if file.table == "demographics")

    def _disturbed(
        self,
        step: Step,
        points: list[KillPoint],
        seconds: float,
        control: HomeState,
        answers: list[Answer | None],
        most: int,
    ) -> None:
        """Run the step in the victim: kill it, check what is left, kill it again, and finally run it to its end."""
        floor = 0
        for drawn in self._kills(step, points, seconds)[:most]:
            kill = self._within_the_rest(drawn, points, floor)
            operation, others, code = self._killed(step, kill)
            for other in others:
                what = f"{' '.join(step.commands[-1])}, beside the one that was killed,"
                self._finish(other, what, may_die=kill.both)
            if code not in KILLED:
                self.result.missed += 1
                if code:
                    self._require_none([f"{step.kind} ended with {code}: {operation.output}"], "before its kill")
                return
            now, last = self._state(self.victim), operation.last_point
            hit = "real process" if kill.mode == "real" else last.phase if last else "start"
            moved = sum(self.before.versions.get(name) != version for name, version in now.versions.items())
            self.result.kills.append(replace(kill, hit=hit, moved=moved))
            violations = state.kill_violations(self.before, control, now, step.dropped_table)
            self._require_none(violations, "right after the kill")
            if online.current_answer(self.victim) not in answers:
                self._require_none(["the online store serves values of no release"], "right after the kill")
            if last in points:
                floor = points.index(last)
            if step.kind == "create" and now.training.keys() - self.before.training.keys():
                return  # it exists, and a second one of that name is refused
        for at, command in enumerate(step.commands):
            self._finish(self._start(step, at), f"{' '.join(command)}, rerun,")

    def _kills(self, step: Step, points: list[KillPoint], seconds: float) -> list[Kill]:
        if self.script is not None:
            return [kill for kill in self.script if kill.step == self.at]
        if self.sabotage and step.kind not in sabotage.ACTS[self.sabotage].kinds:
            return []
        return list(self._drawn(step, points, seconds))

    def _drawn(self, step: Step, points: list[KillPoint], seconds: float) -> Iterator[Kill]:
        """The kills by the seed. Drawn are first the phase, then the call, then the kill point: most points are locks,
        lineage and fsync, and commits are few.
        """
        phases = [phase for phase in sorted({point.phase for point in points}) for _ in range(WEIGHTS.get(phase, 3))]
        for how, where, later in step.random_draws:
            both = len(step.commands) > 1 and later < BOTH
            if how < REAL and not self.sabotage and step.kind != "vacuum":
                yield Kill(self.at, step.kind, "real", where * (seconds + _import_seconds()), both=both)
            elif how < CLOCK:
                yield Kill(self.at, step.kind, "clock", where * seconds, both=both)
            else:
                phase, within = divmod(where * len(phases), 1)
                candidates = [point for point in points if point.phase == phases[int(phase)]]
                calls = sorted({point.call for point in candidates})
                call, within = divmod(within * len(calls), 1)
                candidates = sorted(point for point in candidates if point.call == calls[int(call)])
                mode, delay = ("delayed", later * MAX_DELAY) if how < DELAYED else ("point", 0.0)
                yield Kill(self.at, step.kind, mode, delay, candidates[int(within * len(candidates))], both)

    def _within_the_rest(self, kill: Kill, points: list[KillPoint], floor: int) -> Kill:
        """A rerun passes only the rest: its kill point lies as far into it as the drawn one into the whole, and is
        the first of its name, since a rerun counts fewer of them.
        """
        if self.script is not None or kill.point is None or not floor:
            return kill
        at = floor + (len(points) - floor) * points.index(kill.point) // len(points)
        return replace(kill, point=points[at]._replace(nth=1))

    def _killed(self, step: Step, kill: Kill) -> tuple[Operation, list[Operation], int]:
        """Start all commands of the step and kill the first. Returns it, the others, and its exit code."""
        operation = self._start(step, 0, kill)
        others = [self._start(step, at) for at in range(1, len(step.commands))]
        if kill.point is None and operation.wait(kill.delay) is None:
            operation.kill()
        code = operation.end()
        if kill.both and code in KILLED:
            for other in others:
                other.kill()
        return operation, others, code

    def _start(self, step: Step, at: int, kill: Kill | None = None) -> Operation:
        command = self._numbered(self.victim, step, step.commands[at])
        if kill and kill.mode == "real":
            return self.runner.start_real(self.victim, command)
        pages = step.kind == "two-runs" or self._hit_pages() or (kill is not None and kill.point is not None)
        point, delay = (kill.point, kill.delay if kill.mode == "delayed" else 0.0) if kill else (None, 0.0)
        return self.runner.start(self.victim, command, RunOptions(point, delay, pages=pages, sabotage=self.sabotage))

    def _hit_pages(self) -> bool:
        return any(kill.step == self.at and kill.hit == "data docs" for kill in self.result.kills)

    def _finish(self, operation: Operation, what: str, *, may_die: bool = False) -> None:
        code = operation.end()
        if code and not (may_die and code in KILLED):
            self._require_none([f"{what} ended with {code}: {operation.output}"], "undisturbed")

    def _state(self, home: Home) -> HomeState:
        return self.states[home.path].read()

    def _inconsistencies(self) -> list[str]:
        """Features whose online values differ from the offline ones, both through the Feast SDK, for all entities."""
        from features.online import consistency

        with self.victim.here():
            return [str(feature) for feature in consistency.online(None).features if feature.wrong]

    def _read_again(self) -> None:
        """Compare once more, with every file opened again, and rebuild every training set."""
        for reader in self.states.values():
            reader.forget()
        control, now = self._state(self.control), self._state(self.victim)
        self._require_none(state.differences(control, now), "at the end")
        for name in now.training:
            operation = self.runner.start(self.victim, ("training-set", "rebuild", name, "--check"))
            self._finish(operation, f"training-set rebuild {name} --check")
            if SAME_FILE not in " ".join(operation.output.split()):
                self._require_none([f"training set {name}: {operation.output}"], "at the end")
        self.result.leftover_files = self.states[self.victim.path].leftover_files()

    def _require_none(self, problems: list[str], when: str) -> None:
        if problems:
            self.result.divergences += self._with_step(problems, when)
            raise DivergedError

    def _with_step(self, problems: list[str], when: str) -> list[str]:
        return [f"step {self.at}, {when}: {problem}" for problem in problems]


def to_json(result: EpisodeResult) -> dict[str, Any]:
    """The result as plain JSON, the content of `failure.json`."""
    kills = [{**vars(kill), "point": kill.point and kill.point._asdict()} for kill in result.kills]
    return {**vars(result), "kills": kills}


def from_json(text: str) -> EpisodeResult:
    """The result that a `failure.json` holds."""
    content = json.loads(text)
    kills = [Kill(**{**kill, "point": kill["point"] and KillPoint(**kill["point"])}) for kill in content["kills"]]
    return EpisodeResult(**{**content, "kills": kills})


@cache
def _import_seconds() -> float:
    """How long a real process imports before its command begins."""
    started = time.monotonic()
    imports = "import millrace.cli, great_expectations, pysail.spark"
    subprocess.run([sys.executable, "-W", "ignore", "-c", imports], cwd=settings.CHECKOUT, check=True)
    return time.monotonic() - started
