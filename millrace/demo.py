"""The demo: land the sample, start Airflow, trigger the DAG over REST, watch it, then read what it made as a user
would.

`python -m millrace.demo`, or `make demo`. Exits 0 only if every step worked. A second demo finds everything up to date
and says so. With `--airflow URL` it uses an Airflow that runs elsewhere, and reads features over HTTP: `make compose`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from contracts import catalog, project
from contracts.report import TableReport
from lake import secret_files, settings
from millrace import errors, memory, services, show
from millrace.environment import ADMIN_PASSWORD, USERNAME
from millrace.services import ApiError, Services

DAG = "millrace"
ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")
CONFLICT = 409
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 120.0
"""For so long Airflow may fail to answer, on a busy machine or while its API server is started again."""


class DemoError(RuntimeError):
    """A step of the demo did not work; the message says which and where to look."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 if all of it worked."""
    options = _parser().parse_args(arguments)
    console = show.console()
    started = time.monotonic()
    try:
        secret_files.load()
        _demo(console, started, _elsewhere(options) if options.airflow else None)
    except Exception as error:
        message = errors.sentence(error)
        if message is None and not isinstance(error, RuntimeError | LookupError | OSError):
            raise  # a defect
        console.print(f"\n{message or error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped. A run that was triggered goes on; `make down` ends Airflow.", markup=False)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m millrace.demo",
        description="The main job on the real sample, from landed files to served features.",
    )
    parser.add_argument(
        "--airflow",
        metavar="URL",
        help="an Airflow that runs already, such as http://api-server:8080 (default: start one on this machine)",
    )
    parser.add_argument("--features", metavar="URL", help="its feature server, such as http://features:6566")
    parser.add_argument(
        "--user",
        default=USERNAME,
        help="who signs in, with the password in MILLRACE_ADMIN_PASSWORD (default: %(default)s)",
    )
    return parser


def _elsewhere(options: argparse.Namespace) -> Services:
    password = os.environ.get(ADMIN_PASSWORD)
    if not password or not options.features:
        raise SystemExit(
            f"--airflow needs --features URL as well, and the password of {options.user} in {ADMIN_PASSWORD} or in the"
            f" file that {ADMIN_PASSWORD}_FILE names"
        )
    return Services(options.airflow.rstrip("/"), options.features.rstrip("/"), options.user, password)


def _demo(console: Console, started: float, elsewhere: Services | None) -> None:
    interval = project.required("landing", "run a demo").INTERVAL
    airflow = _prepare(console, elsewhere)
    conf = {"start": str(interval.start), "end": str(interval.end)}
    with _timed(console, f"Run of {interval} over REST"):
        run = Run.trigger(airflow, conf)
        _watch(console, run)
    results = run.results()
    reports = [TableReport.from_dict(results[table.qualified]) for table in catalog.tables()]
    console.print(show.accounts(reports))
    if any(report.warnings for report in reports):
        console.print(show.warnings(reports))
    console.print(_release(results["serve.release"]), markup=False)
    console.print(show.views(results["serve.materialize"]))
    _read_features(console, elsewhere)
    _where_next(
        console,
        airflow,
        elsewhere,
        reports,
        time.monotonic() - started,
        run.airflow_share(reports, results["serve.materialize"]),
    )


@contextmanager
def _timed(console: Console, what: str) -> Iterator[None]:
    started = time.monotonic()
    console.print(f"[bold]{what}[/bold]")
    yield
    console.print(f"[dim]{what}: {time.monotonic() - started:.1f} s[/dim]")


def _prepare(console: Console, elsewhere: Services | None) -> Services:
    """The sample lands while Airflow starts."""
    sample = project.required("landing", "land a sample")

    def say(message: str) -> None:
        console.print(f"  {message}", markup=False)

    what = "waiting for Airflow" if elsewhere else "starting Airflow"
    with _timed(console, f"Landing the sample, {what}"), ThreadPoolExecutor(1) as pool:
        landing = pool.submit(sample.land, lambda name: say(f"landing {name}"))
        if elsewhere:
            _wait_for(elsewhere, say)
        airflow = elsewhere or services.up(say)
        landing.result()
    return airflow


def _wait_for(airflow: Services, say: services.Progress) -> None:
    """Until each component is healthy and the DAG is parsed; DemoError after `MILLRACE_START_SECONDS`."""
    deadline, said = time.monotonic() + settings.start_seconds(), ""
    while missing := _missing(airflow):
        if time.monotonic() > deadline:
            raise DemoError(f"Airflow at {airflow.url} is not ready after {settings.start_seconds()} s: {missing}")
        if missing != said:
            say(f"Waiting for {missing}")
            said = missing
        time.sleep(POLL_SECONDS)


def _missing(airflow: Services) -> str:
    """What is not there yet; DemoError where waiting does not help."""
    try:
        health = airflow.api("GET", "/api/v2/monitor/health")
        unhealthy = [name for name in services.COMPONENTS if (health.get(name) or {}).get("status") != "healthy"]
        if unhealthy:
            return ", ".join(unhealthy)
        airflow.api("GET", f"/api/v2/dags/{DAG}")
    except ApiError as error:
        if error.status in (401, 403):
            raise DemoError(
                f"{airflow.username} may not use Airflow at {airflow.url} ({error.status}): see that the password is"
                " that of this Airflow"
            ) from error
        return f"the DAG {DAG}" if error.status == 404 else f"Airflow, which answers {error.status}"
    except OSError:
        return f"Airflow at {airflow.url}"
    return ""


@dataclass
class Run:
    """A DAG run seen through the REST API."""

    airflow: Services
    id: str
    dag: str = DAG
    seen: dict[str, str] = field(default_factory=dict)

    @classmethod
    def trigger(cls, airflow: Services, conf: dict[str, Any], dag: str = DAG) -> Run:
        """Start a run; a refusal of the API says what is wrong with the params.

        It has an id of ours, so that a second try after a lost answer finds the run of the first.
        """
        run = cls(airflow, f"manual__{datetime.now(UTC).isoformat()}_{uuid.uuid4().hex[:8]}", dag)
        body = {"dag_run_id": run.id, "logical_date": None, "conf": conf}
        try:
            run._call("POST", f"/api/v2/dags/{dag}/dagRuns", body)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
        return run

    def _get(self, path: str = "") -> Any:
        return self._call("GET", f"{self._path}{path}")

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            return self.airflow.api(method, path, body, patience=PATIENCE_SECONDS)
        except OSError as error:
            raise DemoError(
                f"Airflow at {self.airflow.url} has not answered for {PATIENCE_SECONDS:.0f} s ({error}). "
                f"`make status` says what runs. The run {self.id} goes on as soon as Airflow does: "
                "run `make up`, then look at it, or run `make demo` again"
            ) from error

    @property
    def _path(self) -> str:
        from urllib.parse import quote

        return f"/api/v2/dags/{self.dag}/dagRuns/{quote(self.id, safe='')}"

    def state(self) -> str:
        """queued, running, success or failed."""
        return str(self._get()["state"])

    def tasks(self) -> dict[str, dict[str, Any]]:
        """Every task instance by its id."""
        return {instance["task_id"]: instance for instance in self._get("/taskInstances?limit=100")["task_instances"]}

    def result(self, task: str) -> Any:
        """What a task returned."""
        return self._get(f"/taskInstances/{task}/xcomEntries/return_value?stringify=false")["value"]

    def results(self) -> dict[str, Any]:
        """What every task returned, by task."""
        wanted = [table.qualified for table in catalog.tables()] + ["serve.release", "serve.materialize"]
        return {task: self.result(task) for task in wanted}

    def airflow_share(self, reports: list[TableReport], served: dict[str, Any]) -> str:
        """How much of the run's wall time no task was at work."""
        run = self._get()
        wall = _seconds_between(run["start_date"], run["end_date"])
        work = sum(sum(report.seconds.values()) for report in reports) + sum(
            view["seconds"] for view in served["views"]
        )
        busy = _union(
            [
                (one["start_date"], one["end_date"])
                for one in self.tasks().values()
                if one["start_date"] and one["end_date"]
            ]
        )
        return (
            f"{wall:.0f} s wall, {work:.0f} s of work in the tasks (several at a time), {wall - busy:.0f} s in which no"
            " task ran"
        )

    def error(self) -> str:
        """The first failed task with the last error of its log."""
        failed = [one for one in self.tasks().values() if one["state"] == "failed"]
        if not failed:
            return f"the run {self.id} failed"
        first = min(failed, key=lambda one: one["end_date"] or "")
        return f"{first['task_id']} failed: {self._last_error(first)}"

    def _last_error(self, instance: dict[str, Any]) -> str:
        try:
            log = self._get(f"/taskInstances/{instance['task_id']}/logs/{instance['try_number']}")
        except ApiError as error:
            return str(error)
        lines = [line for line in log.get("content", []) if isinstance(line, dict)]
        events = [line for line in lines if line.get("error_detail")]
        if any(line.get("signal_name") == "SIGKILL" for line in lines):
            return (
                "its process was killed (SIGKILL), most likely because the memory limit was reached."
                f" {memory.remedy('scheduler')}{memory.FEWER}"
            )
        if not events:
            return "see its log in the Airflow UI"
        details = events[-1]["error_detail"]
        return "; ".join(str(one.get("exc_value")) for one in details[:1])


def _seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _union(spans: list[tuple[str, str]]) -> float:
    """Seconds covered by at least one span."""
    total, until = 0.0, ""
    for start, end in sorted(spans):
        if end > until:
            total += _seconds_between(max(start, until) if until else start, end)
            until = end
    return total


def _watch(console: Console, run: Run) -> None:
    """Show each task as it ends, and a bar while a terminal looks on."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("waiting for Airflow", total=len(run.tasks()))
        while True:
            state = run.state()
            tasks = run.tasks()
            _tell_news(console, run, tasks)
            _tell_retries(console, run, tasks)
            running = sorted(name for name, one in tasks.items() if one["state"] == "running")
            ended = sum(one["state"] in ENDED for one in tasks.values())
            progress.update(
                bar, completed=ended, total=len(tasks), description=", ".join(running) or "waiting for Airflow"
            )
            if state in ("success", "failed"):
                break
            time.sleep(POLL_SECONDS)
    if state == "failed":
        raise DemoError(
            f"The run failed. {run.error()}\nLook at {run.airflow.url}/dags/{DAG}/runs/{run.id} (user"
            f" {run.airflow.username})"
        )


def _tell_news(console: Console, run: Run, tasks: dict[str, dict[str, Any]]) -> None:
    for name, one in sorted(tasks.items(), key=lambda item: item[1]["end_date"] or ""):
        if one["state"] in ENDED and run.seen.get(name) != one["state"]:
            run.seen[name] = one["state"]
            console.print(f"  {_news(run, name, one)}", markup=False)


def _tell_retries(console: Console, run: Run, tasks: dict[str, dict[str, Any]]) -> None:
    """Say that a task did not end well and is tried again, each time once."""
    for name, instance in sorted(tasks.items()):
        state = f"{instance['state']} {instance['try_number']}"
        if instance["state"] == "up_for_retry" and run.seen.get(name) != state:
            run.seen[name] = state
            console.print(f"  {name:<29} try {instance['try_number']} failed, Airflow tries again", markup=False)


def _news(run: Run, name: str, instance: dict[str, Any]) -> str:
    if instance["state"] != "success":
        return f"{name:<29} {instance['state']}"
    if name.split(".")[0] in catalog.LAYERS:
        return show.line(TableReport.from_dict(run.result(name)))
    return f"{name:<29} done in {instance['duration'] or 0:.1f} s"


def _release(made: dict[str, Any]) -> str:
    tables = ", ".join(f"{name} v{version}" for name, version in made["tables"].items())
    return f"Release {made['number']}, features known up to {made['horizon']}: {tables}\n"


def _read_features(console: Console, elsewhere: Services | None) -> None:
    """One entity's online features, over HTTP where the feature server runs elsewhere, and the head of a training set,
    through the Feast SDK.
    """
    from millrace import reading

    keys = reading.entity()
    found, how = (
        (reading.online_over_http(elsewhere.features_url, keys), ", over HTTP")
        if elsewhere
        else (reading.online(keys), "")
    )
    who = ", ".join(f"{name.removesuffix('_id')} {value}" for name, value in keys.items())
    console.print(show.pairs(f"Online features of {who} ({reading.service().name}{how})", found))
    head = reading.training_set()
    console.print(f"[bold]Head of a training set ({reading.service().name})[/bold]")
    console.print(head.to_string(index=False), markup=False)
    console.print()


def _outside(airflow: Services) -> dict[str, str]:
    """The same for containers, as it looks from the machine that they run on."""
    return {
        "Airflow": (
            f"{settings.public_url() or airflow.url}  (user {airflow.username}; its password is in a"
            " file, see docs/deploy.md)"
        ),
        "Features": f"{settings.public_features_url() or airflow.features_url}/get-online-features",
        "Data Docs": "scripts/compose.sh data-docs DIR  (copies them out of their volume)",
        "Tables": f"{settings.lake()}  (scripts/compose.sh millrace tables)",
        "Stop": "make compose-down",
    }


def _where_next(
    console: Console,
    airflow: Services,
    elsewhere: Services | None,
    reports: list[TableReport],
    seconds: float,
    share: str,
) -> None:
    from expectations import docs

    rows = sum(report.account.rows_in for report in reports)
    console.print("[bold]Where to look next[/bold]")
    shown = (
        _outside(airflow)
        if elsewhere
        else {
            "Airflow": f"{airflow.url}  (user {airflow.username}, password {airflow.password})",
            "Features": f"{airflow.features_url}/get-online-features  (Feast's feature server)",
            "Data Docs": docs.index().as_uri(),
            "Lineage": f"{settings.lineage()}{os.sep}*.ndjson",
            "Tables": f"{settings.lake()}  (python -m millrace tables)",
            "Stop": "make down",
        }
    )
    for name, text in shown.items():
        console.print(f"  {name:<10} {text}", markup=False, soft_wrap=True)
    console.print(f"\nAirflow's run: {share}", markup=False)
    console.print(
        f"All of it worked: {rows:,} rows accounted for in {len(reports)} tables, {seconds:.0f} s from start to here.",
        style="green",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())
