"""Start and stop Airflow on this machine, and talk to its REST API: `python -m millrace.services up|down|status`.

The services are one process tree, rooted in `millrace.host`. This module prepares its environment and secrets, and
later finds it by a token in its environment, so that a stale pid file never signals an unrelated process. What the DAGs
do does not belong here.
"""

import argparse
import json as jsonlib
import os
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from filelock import FileLock

from contracts import project
from etl.spark import SparkError, jars, java, server
from features.serving import options
from lake import secret_files, settings
from lake.settings import SettingError
from millrace import errors, settings_cli
from millrace.components import tail
from millrace.environment import (
    ADMIN_PASSWORD,
    CHECKOUT,
    LOOPBACK,
    USERNAME,
    admin_password,
    environment,
    own_host,
    shared_secrets,
)
from millrace.host import RESTARTS

if TYPE_CHECKING:
    import httpx

TOKEN = "MILLRACE_SERVICES_TOKEN"
HOST = (sys.executable, "-m", "millrace.host")
SLOW_SECONDS = 120.0
"""`up` says that it is still waiting, and for what, each time this long has passed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0
"""Seconds between retries of a call that may be repeated; each pause is twice the one before."""
STOP_SECONDS = 10.0
EXEC_SECONDS, YOUNG_SECONDS, KERNEL = 0.5, 5.0, 2
"""How long to wait for the environment of a process that started less than so many seconds ago, unless its parent is
the kernel's.
"""
COMPONENTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")

Progress = Callable[[str], None]


class ServicesError(Exception):
    """Airflow could not be started, found or stopped; the message says what to do."""


class ApiError(ServicesError):
    """The REST API answered with an error status."""

    def __init__(self, method: str, path: str, status: int, body: str) -> None:
        super().__init__(f"{method} {path} answered {status}: {body}")
        self.status = status
        self.body = body


@dataclass(frozen=True)
class Services:
    """Running services: where Airflow and the feature server are, and a client for Airflow's REST API."""

    url: str
    features_url: str
    username: str
    password: str = field(repr=False)
    _bearer: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def api(self, method: str, path: str, json: Any = None, timeout: float = 60, patience: float = 0) -> Any:
        """Call `/api/v2/...` and return the decoded response. ApiError for a status of 400 and above, OSError without
        a response.

        With `patience`, for calls that may be repeated, retry for so many seconds if the server does not respond or
        responds with a status of 500 and above.
        """
        deadline, pause = time.monotonic() + patience, FIRST_PAUSE
        while True:
            try:
                return self._call(method, path, json, timeout)
            except (ApiError, OSError) as error:
                if (isinstance(error, ApiError) and error.status < 500) or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _call(self, method: str, path: str, json: Any, timeout: float) -> Any:
        headers = self._bearer or self._login()
        try:
            return _request(method, self.url, path, json, headers, timeout)
        except ApiError as error:
            if error.status != 401:
                raise
        return _request(method, self.url, path, json, self._login(), timeout)

    def _login(self) -> dict[str, str]:
        credentials = {"username": self.username, "password": self.password}
        answer = _request("POST", self.url, "/auth/token", credentials, {}, 60)
        self._bearer["Authorization"] = f"Bearer {answer['access_token']}"
        return self._bearer


@dataclass(frozen=True)
class Record:
    """What the pid file says about the running host. Its fields are keys of that file."""

    pid: int
    port: int
    token: str
    started_at: str
    dags_folder: str
    features_port: int = 0
    ready_at: str = ""
    """When everything was healthy for the first time; empty until then."""
    project: str = ""
    """The folder of the project that it runs."""


def up(progress: Progress | None = None) -> Services:
    """Start the services, or find them running, and return once they are healthy and every DAG is parsed.

    `progress` receives what is still pending. ServicesError if the processes end, or after `MILLRACE_START_SECONDS`;
    in the latter case they continue to start.
    """
    say = progress or _ignore
    secret_files.load()  # before keys of our own are made for Airflow
    port, features, patience = settings.airflow_port(), settings.features_port(), settings.start_seconds()
    options.read(), settings.is_scheduled()  # what a component would refuse
    settings.starts_on_events(), settings.events_seconds()
    with _locked():
        record, host = _read_record(), None
        if record and _host_lives(record):
            _ensure_same_port(record, port)
            _ensure_same_project(record)
        else:
            if record:
                _end(record)  # components that outlived their host, which would restart them
            _ensure_port_is_free(port, "MILLRACE_PORT")
            _ensure_port_is_free(features, "MILLRACE_FEATURES_PORT")
            _prepare_engine(say)
            record, host = _start(port, features)
    services = _services(record)
    _wait_until_ready(services, record, host, say, patience)  # without the lock: `down` need not wait for it
    return services


def _prepare_engine(say: Progress) -> None:
    """Find Java and fetch Spark's jars before anything starts; ServicesError if that fails."""
    if settings.engine() != "spark":
        return
    say("Looking for Java and for Spark's jars")
    try:
        java.find()
        jars.fetched(jars.DELTA)
    except SparkError as error:
        raise ServicesError(str(error)) from error


def down(progress: Progress | None = None) -> bool:
    """Stop every process of the services; False if none was running."""
    say = progress or _ignore
    with _locked():
        record = _read_record()
        processes = _processes(record) if record else []
        if record and processes:
            say(f"Stopping Airflow on port {record.port}")
            _end(record)
        _record_path().unlink(missing_ok=True)
    return bool(processes)


def status() -> dict[str, str]:
    """The state of the host and of each component, by name.

    The host is `stopped`, `starting` (with what it waits for), `running`, `failed` (it ended by itself) or `dead` (only
    its components are left). `next` names the next step, if there is one.
    """
    record = _read_record()
    if not record:
        return {"host": "stopped"}
    logs = settings.home() / "logs"
    if not _processes(record):
        return {
            "host": "failed: it ended by itself",
            "next": f"look into {logs}, then run `make up`",
            "log": tail(logs / "host.log", 5),
        }
    services = _services(record)
    states = {"host": _host_state(services, record), "url": services.url, **_component_states(services, record)}
    if states["host"] != "running":
        is_starting = states["host"].startswith("starting")
        states["next"] = "`make up` waits until it is ready" if is_starting else "run `make up`"
        states["next"] += f"; logs are in {logs}"
    return states


def _host_state(services: Services, record: Record) -> str:
    if not _host_lives(record):
        return "dead: nothing starts its components again"
    pending = _pending(services, record)
    if not pending:
        return "running"
    if record.ready_at:
        return f"running, but waiting for {pending}"
    return f"starting for {_age(record):.0f} s, waiting for {pending}"


def _component_states(services: Services, record: Record) -> dict[str, str]:
    """The state of each component in words, with its restarts."""
    health, restarts = _health(services), _restarts(record)
    missing = "not answering" if record.ready_at else "starting"
    states = {}
    for name in COMPONENTS:
        healthy = _is_healthy(health, name, record)
        states[name] = "healthy" if healthy else "unhealthy" if health and record.ready_at else missing
    states["api_server"] = "healthy" if health else missing
    is_serving = _responds(services.features_url, "/health")
    states["feature_server"] = f"healthy at {services.features_url}" if is_serving else missing
    for name, restarted in restarts.items():
        states[name] = f"{states[name]}; {restarted}" if name in states else restarted
    return states


def _restarts(record: Record) -> dict[str, str]:
    """Sentences about components that died and were restarted, by the name that `status` uses."""
    try:
        written = jsonlib.loads((settings.home() / "run" / RESTARTS).read_text())
    except (OSError, ValueError):
        return {}
    names = {"features": "feature_server"}
    return {
        names.get(
            name, name.replace("-", "_")
        ): f"started again {died['times']} time{'s' * (died['times'] > 1)}, the last time because it {died['why']}"
        for name, died in written.get("components", {}).items()
        if written.get("host") == record.pid
    }


def _is_healthy(health: dict[str, Any], name: str, record: Record) -> bool:
    """Whether a component reports itself healthy, with a heartbeat since this start if it has any."""
    state = health.get(name) or {}
    heartbeat = state.get(f"latest_{name}_heartbeat")
    return state.get("status") == "healthy" and not (heartbeat and _time(heartbeat) < _time(record.started_at))


def _age(record: Record) -> float:
    return (datetime.now(UTC) - _time(record.started_at)).total_seconds()


# ---------------------------------------------------------------------------------------------------------------------
# start and stop


def _start(port: int, features: int) -> tuple[Record, "subprocess.Popen[bytes]"]:
    state = settings.home()
    for folder in ("airflow", "logs", "run", "lineage"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    (state / "airflow").chmod(0o700)
    password = admin_password(state / "airflow")
    _rotate_logs(state / "logs")
    token = uuid.uuid4().hex
    started_at = datetime.now(UTC).isoformat()
    variables = {**environment(port, features, os.environ), TOKEN: token}
    variables = {
        **shared_secrets(state / "airflow"),
        **variables,
        **({ADMIN_PASSWORD: password} if settings.auth() == settings.FAB else {}),
    }
    with (state / "logs" / "host.log").open("wb") as log:
        host = subprocess.Popen(  # outlives this process, so it has its own session and no inherited streams
            HOST,
            cwd=CHECKOUT,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    record = Record(
        host.pid,
        port,
        token,
        started_at,
        variables["AIRFLOW__CORE__DAGS_FOLDER"],
        features,
        project=variables[project.SETTING],
    )
    try:
        _write_record(record)
    except OSError:
        _end(record)  # without a record nothing could find it later
        raise
    return record, host


def _write_record(record: Record) -> None:
    draft = _record_path().with_suffix(".draft")
    draft.write_text(jsonlib.dumps(asdict(record)) + "\n")
    draft.replace(_record_path())


def _rotate_logs(logs: Path) -> None:
    """Keep the logs of the last start as `*.log.1`."""
    for log in logs.glob("*.log"):
        log.replace(log.with_suffix(".log.1"))


def _wait_until_ready(
    services: Services, record: Record, host: "subprocess.Popen[bytes] | None", say: Progress, patience: float
) -> None:
    started = reported_at = time.monotonic()
    reported = None
    while pending := _pending(services, record):
        now = time.monotonic()
        if pending != reported:
            say(f"Waiting for {pending}")
            reported, reported_at = pending, now
        elif now - reported_at >= SLOW_SECONDS:
            say(
                f"Airflow is still starting after {_age(record):.0f} s: waiting for {pending}. It takes longer where"
                " the machine is slow or busy"
            )
            reported_at = now
        _ensure_host_lives(record, host)
        if now - started >= patience:
            raise ServicesError(
                f"Airflow is still starting after {_age(record):.0f} s, and goes on: waiting for {pending}. "
                f"`make status` says how far it is, `make up` waits again (MILLRACE_START_SECONDS={patience:.0f}), "
                f"`make down` ends it. Logs are in {settings.home() / 'logs'}."
            )
        time.sleep(0.1)
    _ensure_dags_import(services, record)
    _record_ready(record)
    say(f"Airflow is ready at {services.url}")


def _record_ready(record: Record) -> None:
    """Record when everything was healthy, so that `status` can tell a failed component from one that is starting.

    A full disk is ignored: Airflow is ready all the same.
    """
    with suppress(OSError), _locked():
        if not record.ready_at and _read_record() == record:
            _write_record(replace(record, ready_at=datetime.now(UTC).isoformat()))


def _pending(services: Services, record: Record) -> str | None:
    """The first thing that is not ready yet, in words; None when all is."""
    health = _health(services)
    if not health:
        return "the API server"
    for name in COMPONENTS:
        if not _is_healthy(health, name, record):
            return f"the {name.replace('_', ' ')}"
    if not _responds(services.url, "/execution/health"):
        return "the API for tasks"
    if settings.engine() == "spark" and server.running() is None:
        return "Spark"
    with suppress(ApiError, OSError):
        pending = _pending_dags(services, record)
        return pending or (None if _responds(services.features_url, "/health") else "the feature server")
    return "the API server"


def _responds(url: str, path: str) -> bool:
    """Whether a path responds. Airflow builds the routes that tasks call at the first request, which takes seconds."""
    with suppress(ApiError, OSError):
        _request("GET", url, path, None, {}, 30)
        return True
    return False


def _pending_dags(services: Services, record: Record) -> str | None:
    """The first DAG file whose current content has not been parsed since the start, in words; None if all are."""
    parsed = {dag["fileloc"]: dag["last_parsed_time"] for dag in services.api("GET", "/api/v2/dags?limit=100")["dags"]}
    broken = {_broken_file(error, record): error["timestamp"] for error in _import_errors(services)}
    present = {path: at for path, at in {**parsed, **broken}.items() if Path(path).exists()}
    if not present:
        return f"the first DAG in {record.dags_folder}"
    for path, at in sorted(present.items()):
        if not at or _time(at) < max(_time(record.started_at), datetime.fromtimestamp(Path(path).stat().st_mtime, UTC)):
            return f"{Path(path).name} to be parsed"
    return None


def _import_errors(services: Services, patience: float = 0) -> list[dict[str, str]]:
    errors: list[dict[str, str]] = services.api("GET", "/api/v2/importErrors", patience=patience)["import_errors"]
    return errors


def _broken_file(error: dict[str, str], record: Record) -> str:
    return str(Path(record.dags_folder) / error["filename"])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _ensure_dags_import(services: Services, record: Record) -> None:
    errors = [error for error in _import_errors(services, SLOW_SECONDS) if Path(_broken_file(error, record)).exists()]
    if errors:
        details = "\n".join(f"{error['filename']}:\n{error['stack_trace'].strip()}" for error in errors)
        raise ServicesError(
            f"Airflow runs, but {len(errors)} DAG file(s) cannot be imported. Correct them, Airflow reads them"
            f" again:\n{details}"
        )


def _ensure_host_lives(record: Record, host: "subprocess.Popen[bytes] | None") -> None:
    if host.poll() is None if host else _host_lives(record):
        return
    with _locked():
        if _read_record() != record:
            raise ServicesError("Airflow was stopped while it started. Run `make up` to start it again.")
        _end(record)  # the record stays, so that `status` can say that it failed
    log = settings.home() / "logs" / "host.log"
    raise ServicesError(f"Airflow ended while it started. The end of {log}:\n{tail(log, 25)}")


def _ensure_same_port(record: Record, port: int) -> None:
    if record.port != port:
        raise ServicesError(
            f"Airflow already runs on port {record.port}, and MILLRACE_PORT asks for {port}. Run `make down` first, or"
            f" set MILLRACE_PORT={record.port}."
        )


def _ensure_same_project(record: Record) -> None:
    chosen = str(project.current().root)
    if record.project not in ("", chosen):
        raise ServicesError(
            f"Airflow runs for the project in {record.project}, and this is {chosen}. Run `make down` first, or give"
            " this project a home of its own (MILLRACE_HOME) and ports (MILLRACE_PORT, MILLRACE_FEATURES_PORT)."
        )


def _ensure_port_is_free(port: int, variable: str, patience: float = 2.0) -> None:
    deadline = time.monotonic() + patience  # a process killed a moment ago may still have it open
    while _is_open(port):
        if time.monotonic() > deadline:
            raise ServicesError(
                f"Port {port} is in use by {_describe_listener(port)}, which Millrace did not start. Stop it, or choose"
                f" another port: {variable}={port + 1}."
            )
        time.sleep(0.1)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def _describe_listener(port: int) -> str:
    """The process that listens on a port, in words, if this user may see it."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another process"


def _end(record: Record) -> None:
    """Terminate the host, which stops its components in order, then whatever is left; wait for all of them.

    ServicesError if a process survives SIGKILL.
    """
    processes = set(_processes(record))
    host = {process for process in processes if process.pid == record.pid}
    for signaled, method in ((host, "terminate"), (processes, "terminate"), (processes, "kill")):
        for process in filter(_is_alive, signaled):
            with suppress(psutil.Error):
                getattr(process, method)()
        deadline = time.monotonic() + STOP_SECONDS
        while any(map(_is_alive, signaled)) and time.monotonic() < deadline:
            processes.update(_processes(record))  # a task may have started since
            psutil.wait_procs(list(signaled), timeout=0.1)
    if survivors := [str(process.pid) for process in processes if _is_alive(process)]:
        raise ServicesError(
            f"{len(survivors)} process(es) of Airflow did not end: {', '.join(survivors)}. End them by hand, then run"
            " `make down` again."
        )


def _processes(record: Record) -> list[psutil.Process]:
    """Every living process of these services: those with the token in their environment, their session, and their
    descendants.

    Airflow hides the environment of a process that runs tasks, so the session stands in for it. A session counts only
    if one of its processes has the token, which rules out an unrelated process with a recycled pid.
    """
    candidates = [process for process in psutil.process_iter() if process.pid != os.getpid()]
    members = {process for process in candidates if _has_token(process, record.token)}
    if any(_session(process) == record.pid for process in members):
        members.update(process for process in candidates if _session(process) == record.pid)
    for process in list(members):
        with suppress(psutil.Error):
            members.update(child for child in process.children(recursive=True) if child.pid != os.getpid())
    return [process for process in members if _is_alive(process)]


def _host_lives(record: Record) -> bool:
    return any(process.pid == record.pid for process in _processes(record))


def _has_token(process: psutil.Process, token: str) -> bool:
    try:
        variables, deadline = process.environ(), time.monotonic() + EXEC_SECONDS
        # Linux shows none while a process is between two programs, and never one of a thread of the kernel
        while not variables and time.monotonic() < deadline and _is_young(process):
            time.sleep(0.01)
            variables = process.environ()
        return variables.get(TOKEN) == token
    except (psutil.Error, OSError):
        return False


def _is_young(process: psutil.Process) -> bool:
    return time.time() - process.create_time() < YOUNG_SECONDS and process.ppid() != KERNEL and _is_alive(process)


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


def _is_alive(process: psutil.Process) -> bool:
    try:
        alive: bool = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return alive
    except psutil.Error:
        return False


# ----------------------------------------------------------------------------------------------------------------------
# small helpers


def _services(record: Record) -> Services:
    host, password = own_host(), admin_password(settings.home() / "airflow")
    return Services(f"http://{host}:{record.port}", f"http://{host}:{record.features_port}", USERNAME, password)


def _record_path() -> Path:
    return settings.home() / "run" / "services.json"


def _read_record() -> Record | None:
    try:
        return Record(**jsonlib.loads(_record_path().read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


@contextmanager
def _locked() -> Iterator[None]:
    """Allow one `up` or `down` at a time to change the services of this home."""
    folder = settings.home() / "run"
    folder.mkdir(parents=True, exist_ok=True)
    # Held for seconds: while processes start or end, not while they become ready.
    with FileLock(folder / "services.lock"):
        yield


def _health(services: Services) -> dict[str, Any]:
    """Airflow's own health report; empty while the API server does not respond."""
    try:
        health: dict[str, Any] = _request("GET", services.url, "/api/v2/monitor/health", None, {}, 5)
    except (ApiError, OSError):
        return {}
    return health


@cache
def _client() -> "httpx.Client":
    """Connections that go through no proxy, whatever the environment says: what they reach is on our own network."""
    import httpx  # 0.15 s, which `make status` does without while nothing runs

    limits = httpx.Limits(max_keepalive_connections=0)  # a POST must not meet a connection that a restart closed
    return httpx.Client(trust_env=False, follow_redirects=True, limits=limits)


def _request(method: str, url: str, path: str, json: Any, headers: Mapping[str, str], timeout: float) -> Any:
    import httpx

    try:
        response = _client().request(method, url + path, json=json, headers={**headers}, timeout=timeout)
    except httpx.TransportError as error:
        raise ConnectionError(f"{method} {path} was not answered: {type(error).__name__} {error}") from error
    if response.status_code >= 400:
        raise ApiError(method, path, response.status_code, response.text)
    return response.json() if response.content else None


def main(arguments: list[str] | None = None) -> int:
    """Run `up`, `down` or `status` from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m millrace.services", description="Start and stop Airflow on this machine."
    )
    parser.add_argument("command", choices=("up", "down", "status"))
    command = parser.parse_args(arguments).command
    try:
        if command == "up":
            settings_cli.warn_of_unknown()
            services = up(_print)
            is_own = settings.auth() == settings.FAB and os.environ.get(ADMIN_PASSWORD)
            _print(
                f"Sign in as {services.username} with the password"
                f" {f'that {ADMIN_PASSWORD} held at the first start' if is_own else services.password}"
            )
        elif command == "down":
            _print("Airflow is stopped" if down(_print) else "Airflow was not running")
        else:
            states = status()
            for name, state in states.items():
                _print(f"{name}: {state}")
            return int(states["host"].startswith(("failed", "dead")))
    except KeyboardInterrupt:
        print(
            "Stopped waiting. Airflow goes on: `make status` says how far it is, `make down` ends it.", file=sys.stderr
        )
        return 130
    except (ServicesError, SettingError, secret_files.SecretError, OSError) as error:
        print(errors.sentence(error) or error, file=sys.stderr)
        return 1
    return 0


def _print(message: str) -> None:
    print(message, flush=True)


def _ignore(_message: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(main())
