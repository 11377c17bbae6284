"""An episode: the same steps in two homes over one landing zone. In one of them each step is killed, looked at, and done again; then both have to hold the same."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.chaos import online, schedule, state, truth
from tests.chaos.online import Answer, Reader
from tests.chaos.operations import KILLED, Home, Operation, Orders, Runner
from tests.chaos.points import Point
from tests.chaos.schedule import Landing, Step
from tests.chaos.state import Observer, Seen
from tests.landing import Shop

REAL, CLOCK, DELAYED = 0.10, 0.25, 0.45
"""Shares of kills, added up: of a real process, by the clock, some milliseconds after a point. The others fall on a point."""
MOST_DELAY = 0.03
BOTH = 0.3
"""Of kills while two commands run: share that kills both."""


@dataclass(frozen=True)
class Kill:
    """How one kill was done: `mode` is real, clock, delayed or point. What is needed to do it again, and where it hit."""

    step: int
    kind: str
    mode: str
    delay: float
    point: Point | None = None
    both: bool = False
    hit: str = "start"
    after: Point | None = None
    moved: int = 0
    """Tables whose version had changed since the step began."""


@dataclass
class Outcome:
    """What an episode came to."""

    seed: int
    episode: int
    kills: list[Kill] = field(default_factory=list)
    missed: int = 0
    """Operations that ended before their kill."""
    steps: list[str] = field(default_factory=list)
    divergences: list[str] = field(default_factory=list)
    answers: int = 0
    compared: int = 0
    """Values online that were compared with brute force."""
    leftovers: int = 0


class Diverged(Exception):  # noqa: N818 (what it says)
    """The home is not what the control is; nothing after it would mean anything."""


class Episode:
    """Runs in `folder`. `script` repeats kills of an earlier time instead of drawing them; `sabotage` breaks a guard in the home that is killed."""

    def __init__(self, folder: Path, seed: int, number: int, script: list[Kill] | None = None, sabotage: str = "") -> None:
        self.folder, self.seed, self.number, self.sabotage = folder.resolve(), seed, number, sabotage
        self.script = script
        landing = self.folder / "landing"
        self.control, self.victim = Home(self.folder / "control", landing), Home(self.folder / "victim", landing)
        self.shop, self.runner = Shop(landing), Runner(self.folder / "processes")
        self.observers = {home.path: Observer(home.path) for home in (self.control, self.victim)}
        self.outcome = Outcome(seed, number)
        self.before, self.served = Seen(), list[Answer | None]([None])
        self.truths: list[schedule.Truth] = []
        self.reader: Reader | None = None
        self.at = 0

    def run(self, most: int, say: Callable[[Outcome, Step], Any]) -> Outcome:
        """All steps, or as many as it takes for `most` kills. Stops at the first divergence."""
        try:
            for at, step in enumerate(schedule.steps(self.seed, self.number)):
                self.at = at
                if len(self.outcome.kills) >= most:
                    break
                self._step(step, most - len(self.outcome.kills))
                self.outcome.steps.append(step.kind)
                say(self.outcome, step)
            self._close()
        except Diverged:
            pass
        finally:
            if self.reader:
                self.outcome.divergences += self._told(self.reader.end(), "at the end")
                self.outcome.answers += self.reader.asked
        if self.outcome.divergences:
            (self.folder / "failure.json").write_text(json.dumps(plain(self.outcome), indent=1))
        return self.outcome

    def _step(self, step: Step, most: int) -> None:
        for landing in step.landings:
            self.shop.land(landing.table, [dict(row) for row in landing.rows], landing.day, landing.name, landing.suffix)
        if step.landings:
            self.truths.append(step.truth)
        if step.lost:
            for home in (self.control, self.victim):
                shutil.rmtree(home.path / "lake" / "training" / step.lost)
        points, seconds = self._undisturbed(step)
        after = self._look(self.control)
        self._refuse(after.problems, "in the control")
        to_come = self._expected(step, after)
        if self.reader:
            self._refuse(self.reader.allow(to_come), "before")
        self._disturbed(step, points, seconds, after, to_come, most)
        now = self._look(self.victim)
        self._refuse(state.after_rerun(after, now), "after the rerun")
        if step.kind.startswith("serve"):
            self._refuse([] if online.served(self.victim) == to_come[-1] else ["what is online is not what it is in the control"], "after the rerun")
            self._refuse(self._consistency(), "after the rerun")
            self.reader = self.reader or Reader(self.runner.server, self.victim, to_come[-1:])
        if self.reader:
            self._refuse(self.reader.allow(to_come[-1:]), "during the step")
        self.before, self.served = now, to_come[-1:]

    def _undisturbed(self, step: Step) -> tuple[list[Point], float]:
        """The control's turn: the points that the first command passed, and its seconds."""
        points: list[Point] = []
        seconds = 0.0
        for at, command in enumerate(dict.fromkeys(step.commands)):
            record, started = self.folder / "points.json", time.monotonic()
            operation = self.runner.start(
                self.control, self._command(step, command, self.observers[self.control.path].look), Orders(record=record, pages=False)
            )
            code = operation.end()
            if code:
                self._refuse([f"{' '.join(command)} in the control ended with {code}: {operation.said}"], "undisturbed")
            if not at:
                points, seconds = [Point(*one) for one in json.loads(record.read_text())], time.monotonic() - started
        return points, seconds

    def _command(self, step: Step, command: tuple[str, ...], look: Callable[[], Seen]) -> tuple[str, ...]:
        """The command line; a release has another number in each home."""
        return (*command, str(look().differing_releases[step.back_to].number)) if step.back_to is not None else command

    def _expected(self, step: Step, control: Seen) -> list[Answer | None]:
        """Answers that readers may get during the step, the last of them at its end; what the control holds is compared with brute force."""
        if step.landings:
            self._refuse(truth.silver_differences(step.truth, self.control.path / "lake"), "in the control, by brute force")
        if not step.kind.startswith("serve"):
            return self.served
        number = len(control.differing_releases) - 1 if step.back_to is None else step.back_to
        right, answer = truth.answer(self.truths[number], self._customers()), online.served(self.control)
        self.outcome.compared += sum(len(values) for _, values in right)
        self._refuse(truth.differences(right, answer)[:5], "in the control, by brute force")
        return [*self.served, answer]

    def _customers(self) -> Landing:
        first = next(schedule.steps(self.seed, self.number, 1))
        return next(landing for landing in first.landings if landing.table == "demographics")

    def _disturbed(self, step: Step, points: list[Point], seconds: float, control: Seen, to_come: list[Answer | None], most: int) -> None:
        """The victim's turn: kills, each with a look at what is left, then the operation until it ends."""
        floor = 0
        for kill in self._kills(step, points, seconds)[:most]:
            kill = self._redrawn(kill, points, floor)
            operation, others, done = self._killed(step, kill)
            for other in others:
                self._finish(other, f"{' '.join(step.commands[-1])}, beside the one that was killed,", may_die=kill.both)
            if done not in KILLED:
                self.outcome.missed += 1
                if done:
                    self._refuse([f"{step.kind} ended with {done} by itself: {operation.said}"], "before its kill")
                return
            now = self._look(self.victim)
            last = operation.last_point
            hit = "real process" if kill.mode == "real" else last.phase if last else "start"
            moved = sum(self.before.versions.get(name) != version for name, version in now.versions.items())
            self.outcome.kills.append(replace(kill, hit=hit, after=last, moved=moved))
            self._refuse(state.after_kill(self.before, control, now, step.lost), "right after the kill")
            self._refuse([] if online.served(self.victim) in to_come else ["what is online is no release's"], "right after the kill")
            if last in points:
                floor = points.index(last)
            if step.kind == "create" and now.training.keys() - self.before.training.keys():
                return  # it is there, and a second one of the name is refused
        self._finish(self._start(step, 0), f"{' '.join(step.commands[0])}, done again,")
        for at in range(1, len(step.commands)):
            self._finish(self._start(step, at), f"{' '.join(step.commands[at])}, done again,")

    def _kills(self, step: Step, points: list[Point], seconds: float) -> list[Kill]:
        if self.script is not None:
            return [kill for kill in self.script if kill.step == self.at]
        return list(self._drawn(step, points, seconds))

    def _drawn(self, step: Step, points: list[Point], seconds: float) -> Iterator[Kill]:
        """How often and how to kill, by the seed. The phase of a point is drawn first, else locks and lineage would have most of the kills."""
        for how, where, later in step.draws:
            both = len(step.commands) > 1 and later < BOTH
            if how < REAL and not self.sabotage and step.kind != "vacuum":
                yield Kill(self.at, step.kind, "real", where * (seconds + _import_seconds()), both=both)
            elif how < CLOCK or not points:
                yield Kill(self.at, step.kind, "clock", where * seconds, both=both)
            else:
                phases = sorted({point.phase for point in points})
                phase, within = divmod(where * len(phases), 1)
                some = sorted(point for point in points if point.phase == phases[int(phase)])
                yield Kill(self.at, step.kind, *(("delayed", later * MOST_DELAY) if how < DELAYED else ("point", 0.0)), some[int(within * len(some))], both)

    def _redrawn(self, kill: Kill, points: list[Point], floor: int) -> Kill:
        """The second time a command has less left to do: a point that it will not pass again is exchanged for the one as far into the rest."""
        if self.script is not None or kill.point is None or not floor:
            return kill
        at = points.index(kill.point)
        return replace(kill, point=points[floor + (len(points) - floor) * at // len(points)])

    def _killed(self, step: Step, kill: Kill) -> tuple[Operation, list[Operation], int]:
        """Start all commands of the step, and kill the first."""
        operation = self._start(step, 0, kill)
        others = [self._start(step, at, replace(kill, mode="none", point=None)) for at in range(1, len(step.commands))]
        if kill.point is None and operation.wait(kill.delay) is None:
            operation.kill()
        code = operation.end()
        if kill.both and code in KILLED:
            for other in others:
                other.kill()
        return operation, others, code

    def _start(self, step: Step, at: int, kill: Kill | None = None) -> Operation:
        command = self._command(step, step.commands[at], self.observers[self.victim.path].look)
        if kill and kill.mode == "real":
            return self.runner.start_real(self.victim, command)
        pages = kill is not None or any(one.step == self.at and one.hit == "data docs" for one in self.outcome.kills)
        delay = kill.delay if kill and kill.mode == "delayed" else 0.0
        return self.runner.start(self.victim, command, Orders(kill.point if kill else None, delay, pages=pages, sabotage=self.sabotage))

    def _finish(self, operation: Operation, what: str, *, may_die: bool = False) -> None:
        code = operation.end()
        if code and not (may_die and code in KILLED):
            self._refuse([f"{what} ended with {code}: {operation.said}"], "undisturbed")

    def _look(self, home: Home) -> Seen:
        return self.observers[home.path].look()

    def _consistency(self) -> list[str]:
        """All that is served, by the SDK, with all that a training set would hold, by the SDK."""
        from features import consistency

        with self.victim.here():
            found = consistency.online(None)
        return [str(one) for one in found.features if one.wrong]

    def _close(self) -> None:
        """Every release and training set once more, from nothing that is remembered, and every training set made again."""
        for home in (self.control, self.victim):
            self.observers[home.path].forget()
        after, now = self._look(self.control), self._look(self.victim)
        self._refuse(state.after_rerun(after, now), "at the end")
        for name in now.training:
            operation = self.runner.start(self.victim, ("training-set", "rebuild", name, "--check"))
            self._finish(operation, f"training-set rebuild {name} --check")
            if "the same file byte for byte" not in " ".join(operation.said.split()):
                self._refuse([f"training set {name}: {operation.said}"], "rebuilt")
        self.outcome.leftovers = self.observers[self.victim.path].unneeded()

    def _refuse(self, problems: list[str], when: str) -> None:
        if problems:
            self.outcome.divergences += self._told(problems, when)
            raise Diverged

    def _told(self, problems: list[str], when: str) -> list[str]:
        return [f"step {self.at}, {when}: {problem}" for problem in problems]


def plain(outcome: Outcome) -> dict[str, Any]:
    """As JSON can hold it."""
    kills = [{**vars(kill), "point": kill.point and kill.point._asdict(), "after": kill.after and kill.after._asdict()} for kill in outcome.kills]
    return {**vars(outcome), "kills": kills}


def script(text: str) -> tuple[int, int, list[Kill]]:
    """Seed, episode and kills of a `failure.json`."""
    found = json.loads(text)
    kills = [Kill(**{**kill, "point": kill["point"] and Point(**kill["point"]), "after": None}) for kill in found["kills"]]
    return found["seed"], found["episode"], kills


_measured: list[float] = []


def _import_seconds() -> float:
    """How long a real process imports before it begins, measured once."""
    import subprocess
    import sys

    from contracts import settings

    if not _measured:
        started = time.monotonic()
        subprocess.run([sys.executable, "-W", "ignore", "-c", "import dags.cli, great_expectations, pysail.spark"], cwd=settings.CHECKOUT, check=True)
        _measured.append(time.monotonic() - started)
    return _measured[0]
