"""Run the interval in one process per case, and break it at a point of one table: `python breaking.py HOME,POINT,TABLE
...`.

Prints a JSON line per case: the exit code (minus the signal that killed it) and what the command printed. The point `at
once` breaks nothing: two processes run the interval at the same time. Imports are paid once: a case is a fork.
"""

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import wraps

from contracts import catalog
from contracts.model import Layer
from etl import quarantine, stage, transforms
from lake import publishing, release
from millrace import cli, pipeline

INTERVAL = ("run", "--start", "2017-03-01", "--end", "2017-03-03")
HEAVY = (
    "deltalake",
    "duckdb",
    "great_expectations.expectations",
    "lineage.record",
    "pyarrow.compute",
    "pyarrow.csv",
    "pysail.spark",
    "pyspark.sql.connect.functions",
)
"""Imported before the forks, and started after them: threads do not survive a fork."""


TWICE = "at once"
"""The point at which nothing breaks: two processes run the interval at the same time."""


def kill() -> None:
    """What kill -9 and the kernel's out-of-memory killer do."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill() -> None:
    """From now on a file that grows is met with EFBIG, as a full disk meets it with ENOSPC."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))


def before(
    module: object, name: str, break_it: Callable[[], None], concerned: Callable[..., bool] = lambda *_: True
) -> None:
    """Break it when the function is called."""
    original = getattr(module, name)

    @wraps(original)
    def broken(*arguments: object, **named: object) -> object:
        if concerned(*arguments):
            break_it()
        return original(*arguments, **named)

    setattr(module, name, broken)


def after(module: object, name: str, break_it: Callable[[], None], concerned: Callable[..., bool]) -> None:
    """Break it when the function has done its work."""
    original = getattr(module, name)

    @wraps(original)
    def broken(*arguments: object, **named: object) -> object:
        result = original(*arguments, **named)
        if concerned(*arguments):
            break_it()
        return result

    setattr(module, name, broken)


def arrange(point: str, table: str) -> None:
    """Lay the trap. One table at a time: a limit of the process would meet whichever table writes next."""
    pipeline.WORKERS = 1
    if point == "staged":
        after(stage, "stage", kill, lambda planned: planned.table.qualified == table)
    elif point == "quarantined":
        after(quarantine, "replace", kill, lambda staged, *_: staged.table.qualified == table)
    elif point == "moved":
        before(publishing, "_commit", kill, lambda _, contract, *__: contract.qualified == table)
    elif point == "committed":
        after(publishing, "_commit", kill, lambda _, contract, *__: contract.qualified == table)
    elif point == "published":
        before(release, "write", kill)
    elif point == "no room to stage":
        before(stage, "stage", fill, lambda planned: planned.table.qualified == table)
    elif point == "no room to quarantine":
        before(quarantine, "replace", fill, lambda staged, *_: staged.table.qualified == table)
    elif point == "no room to commit":
        before(publishing, "_commit", fill, lambda _, contract, *__: contract.qualified == table)
    else:
        raise ValueError(point)


def start(home: str, point: str, table: str) -> tuple[int, int]:
    """The process of the command, to be broken at the point, and the end of a pipe from which to read its output."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(writing, 1)
        os.dup2(writing, 2)
        os.environ["MILLRACE_HOME"] = home
        if point != TWICE:
            arrange(point, table)
        code = cli.main(list(INTERVAL))
        sys.stdout.flush()
        os._exit(code)
    os.close(writing)
    return child, reading


def end(child: int, reading: int) -> tuple[int, str]:
    """Exit code and output of the process."""
    with os.fdopen(reading) as output:
        text = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def run(home: str, point: str, table: str) -> tuple[int, str]:
    """Exit code and output of the case; of two processes at once the code that is not 0, if there is one, and both
    outputs.
    """
    started = [start(home, point, table) for _ in range(2 if point == TWICE else 1)]
    ended = [end(*process) for process in started]
    return next((code for code, _ in ended if code), 0), "".join(text for _, text in ended)


if __name__ == "__main__":
    for name in HEAVY:
        importlib.import_module(name)
    for table in (*catalog.tables(Layer.SILVER), *catalog.tables(Layer.GOLD)):
        if transforms.has_transform(table):
            transforms.transform(table)
    for case in sys.argv[1:]:
        print(json.dumps(run(*case.split(","))), flush=True)
