"""The demo: land the sample, start Airflow, trigger the DAG over REST, watch it, then read features as a user would.

`python -m millrace.demo`, or `make demo`. Exits 0 only if every step worked. A second demo finds everything up to date
and says so. With `--airflow URL` it uses an Airflow that is already running elsewhere, and reads features over HTTP:
`make compose`.
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
from millrace import errors, memory, services, settings_cli, show
from millrace.environment import ADMIN_PASSWORD, USERNAME
from millrace.services import ApiError, Services

DAG = "millrace"
ENDED = ("success", "failed", "skipped", "upstream_failed", "removed")
CONFLICT = 409
POLL_SECONDS = 0.5
PATIENCE_SECONDS = 120.0
"""How long Airflow may fail to respond, on a busy machine or while its API server restarts."""


class DemoError(RuntimeError):
    """A step of the demo failed; the message says which one and where to look."""


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; 0 if all of it worked."""
    options = _parser().parse_args(arguments)
    console = show.console()
    started = time.monotonic()
    try:
        settings_cli.warn_of_unknown()
        secret_files.load()
        _demo(console, started, _remote_airflow(options) if options.airflow else None)
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


def _remote_airflow(options: argparse.Namespace) -> Services:
    password = os.environ.get(ADMIN_PASSWORD)
    if not password or not options.features:
        raise SystemExit(
            f"--airflow needs --features URL as well, and the password of {options.user} in {ADMIN_PASSWORD} or in the"
            f" file that {ADMIN_PASSWORD}_FILE names"
        )
    return Services(options.airflow.rstrip("/"), options.features.rstrip("/"), options.user, password)


def _demo(console: Console, started: float, remote: Services | None) -> None:
    interval = project.required("landing", "run a demo").INTERVAL
    airflow = _prepare(console, remote)
    conf = {"start": str(interval.start), "end": str(interval.end)}
    with timed(console, f"Run of {interval} over REST"):
        run = Run.trigger(airflow, conf)
        watch(console, run)
    results = run.results()
    reports = [TableReport.from_dict(results[table.qualified]) for table in catalog.tables()]
    console.print(show.accounts(reports))
    if any(report.warnings for report in reports):
        console.print(show.warnings(reports))
    console.print(_release(results["serve.release"]), markup=False)
    console.print(show.views(results["serve.materialize"]))
    _read_features(console, remote)
    _print_links(
        console,
        airflow,
        remote,
        reports,
        time.monotonic() - started,
        run.timing(reports, results["serve.materialize"]),
    )


@contextmanager
def timed(console: Console, what: str) -> Iterator[None]:
    """Print what is done, and at its end how long it took."""
    started = time.monotonic()
    console.print(what, style="bold", markup=False)
    yield
    console.print(f"{what}: {time.monotonic() - started:.1f} s", style="dim", markup=False)


def _prepare(console: Console, remote: Services | None) -> Services:
    """Land the sample while Airflow starts; returns Airflow once both are done."""
    sample = project.required("landing", "land a sample")

    def say(message: str) -> None:
        console.print(f"  {message}", markup=False)

    what = "waiting for Airflow" if remote else "starting Airflow"
    with timed(console, f"Landing the sample, {what}"), ThreadPoolExecutor(1) as pool:
        landing = pool.submit(sample.land, lambda name: say(f"landing {name}"))
        if remote:
            _wait_for(remote, say)
        airflow = remote or services.up(say)
        landing.result()
    return airflow


def _wait_for(airflow: Services, say: services.Progress) -> None:
    """Wait until every component is healthy and the DAG is parsed; DemoError after `MILLRACE_START_SECONDS`."""
    deadline, reported = time.monotonic() + settings.start_seconds(), ""
    while unready := _unready(airflow):
        if time.monotonic() > deadline:
            raise DemoError(f"Airflow at {airflow.url} is not ready after {settings.start_seconds()} s: {unready}")
        if unready != reported:
            say(f"Waiting for {unready}")
            reported = unready
        time.sleep(POLL_SECONDS)


def _unready(airflow: Services) -> str:
    """What is not ready yet, in words; empty if all is. DemoError if waiting cannot help."""
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
        """Start a run. ApiError, with the API's reason, for wrong params.

        The caller chooses the run's id, so that a retry after a lost response finds the run that the first try started.
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
        """What each table's task, and those that release and serve, returned, by task id."""
        task_ids = [table.qualified for table in catalog.tables()] + ["serve.release", "serve.materialize"]
        return {task_id: self.result(task_id) for task_id in task_ids}

    def timing(self, reports: list[TableReport], served: dict[str, Any]) -> str:
        """The run's wall time, the work of its tasks, and the time in which no task ran, in words."""
        run = self._get()
        wall = _seconds_between(run["start_date"], run["end_date"])
        work = sum(sum(report.seconds.values()) for report in reports) + sum(
            view["seconds"] for view in served["views"]
        )
        busy = _union(
            [
                (task["start_date"], task["end_date"])
                for task in self.tasks().values()
                if task["start_date"] and task["end_date"]
            ]
        )
        return (
            f"{wall:.0f} s wall, {work:.0f} s of work in the tasks (several at a time), {wall - busy:.0f} s in which no"
            " task ran"
        )

    def error(self) -> str:
        """The first failed task with the last error of its log."""
        failed = [task for task in self.tasks().values() if task["state"] == "failed"]
        if not failed:
            return f"the run {self.id} failed"
        first = min(failed, key=lambda task: task["end_date"] or "")
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
        return "; ".join(str(detail.get("exc_value")) for detail in details[:1])


def _seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def _union(spans: list[tuple[str, str]]) -> float:
    """Seconds that at least one span covers."""
    total, until = 0.0, ""
    for start, end in sorted(spans):
        if end > until:
            total += _seconds_between(max(start, until) if until else start, end)
            until = end
    return total


def watch(console: Console, run: Run) -> None:
    """Print each task as it ends, with a progress bar on a terminal. DemoError if the run fails."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("waiting for Airflow", total=len(run.tasks()))
        while True:
            state = run.state()
            tasks = run.tasks()
            _print_ended(console, run, tasks)
            _print_retries(console, run, tasks)
            running = sorted(name for name, task in tasks.items() if task["state"] == "running")
            ended = sum(task["state"] in ENDED for task in tasks.values())
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


def _print_ended(console: Console, run: Run, tasks: dict[str, dict[str, Any]]) -> None:
    """Print each task that has ended, once."""
    for name, task in sorted(tasks.items(), key=lambda item: item[1]["end_date"] or ""):
        if task["state"] in ENDED and run.seen.get(name) != task["state"]:
            run.seen[name] = task["state"]
            console.print(f"  {_result_line(run, name, task)}", markup=False)


def _print_retries(console: Console, run: Run, tasks: dict[str, dict[str, Any]]) -> None:
    """Print each failed try that Airflow retries, once."""
    for name, instance in sorted(tasks.items()):
        state = f"{instance['state']} {instance['try_number']}"
        if instance["state"] == "up_for_retry" and run.seen.get(name) != state:
            run.seen[name] = state
            console.print(f"  {name:<29} try {instance['try_number']} failed, Airflow tries again", markup=False)


def _result_line(run: Run, name: str, instance: dict[str, Any]) -> str:
    if instance["state"] != "success":
        return f"{name:<29} {instance['state']}"
    if name.split(".")[0] in catalog.LAYERS:
        return show.line(TableReport.from_dict(run.result(name)))
    return f"{name:<29} done in {instance['duration'] or 0:.1f} s"


def _release(release: dict[str, Any]) -> str:
    tables = ", ".join(f"{name} v{version}" for name, version in release["tables"].items())
    return f"Release {release['number']}, features known up to {release['horizon']}: {tables}\n"


def _read_features(console: Console, remote: Services | None) -> None:
    """Print one entity's online features and the head of a training set, read through the Feast SDK.

    With a remote Airflow, the online features come from its feature server over HTTP.
    """
    from millrace import reading

    keys = reading.entity()
    features = reading.online_over_http(remote.features_url, keys) if remote else reading.online(keys)
    entity = ", ".join(f"{name.removesuffix('_id')} {value}" for name, value in keys.items())
    protocol = ", over HTTP" if remote else ""
    console.print(show.pairs(f"Online features of {entity} ({reading.service().name}{protocol})", features))
    head = reading.training_set()
    console.print(f"Head of a training set ({reading.service().name})", style="bold", markup=False)
    console.print(head.to_string(index=False), markup=False)
    console.print()


def _container_links(airflow: Services) -> dict[str, str]:
    """Where to look when Airflow runs in containers, as seen from their host."""
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


def _print_links(
    console: Console,
    airflow: Services,
    remote: Services | None,
    reports: list[TableReport],
    seconds: float,
    share: str,
) -> None:
    """Print where to look next, how long Airflow's run took, and the line that says that all of it worked."""
    from expectations import docs

    rows = sum(report.account.rows_in for report in reports)
    console.print("Where to look next", style="bold")
    links = (
        _container_links(airflow)
        if remote
        else {
            "Airflow": f"{airflow.url}  (user {airflow.username}, password {airflow.password})",
            "Features": f"{airflow.features_url}/get-online-features  (Feast's feature server)",
            "Data Docs": docs.index().as_uri(),
            "Lineage": f"{settings.lineage()}{os.sep}*.ndjson",
            "Tables": f"{settings.lake()}  (python -m millrace tables)",
            "Stop": "make down",
        }
    )
    for name, text in links.items():
        console.print(f"  {name:<10} {text}", markup=False, soft_wrap=True)
    console.print(f"\nAirflow's run: {share}", markup=False)
    console.print(
        f"All of it worked: {rows:,} rows accounted for in {len(reports)} tables, {seconds:.0f} s from start to here.",
        style="green",
        markup=False,
    )


if __name__ == "__main__":
    sys.exit(main())
