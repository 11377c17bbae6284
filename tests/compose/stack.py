"""Millrace in containers, as scripts/compose.sh starts it, and what a test does to it: kill, restart, fill, starve. And
the same days in this process, undisturbed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts import catalog
from contracts.report import TableReport
from grocery.tests.shop import Shop, purchase
from lake import settings
from millrace import demo
from millrace.services import Services
from tests import patience
from tests.carrying import differing
from tests.conftest import set_home

SCRIPTS = settings.CHECKOUT / "scripts"
OVERRIDE = Path(__file__).with_name("compose.test.yaml")
AIRFLOW = ("api-server", "scheduler", "dag-processor", "triggerer")
SERVERS = ("postgres", "redis", "s3")
COMPONENTS = (*AIRFLOW, "features", "engine")
SERVICE = "recommendation_v1"
CUSTOMERS, PRODUCTS = (1, 2, 3, 99), (1, 2, 3, 99)
FIRST_DAY = date(2017, 3, 1)


@dataclass
class Engine:
    """The command line of the Docker Engine that scripts/docker-engine.sh finds or starts."""

    program: str
    environment: dict[str, str]

    @classmethod
    def find(cls) -> Engine:
        """Started where there is none."""
        # What the tests keep lies in a folder of their own; an engine that this checkout started has its state in the
        # checkout's.
        home = (
            os.environ.get("MILLRACE_DOCKER_HOME")
            or f"{os.environ.get('MILLRACE_HOME') or settings.CHECKOUT / '.millrace'}/docker"
        )
        environment = {**os.environ, "MILLRACE_DOCKER_HOME": home}
        subprocess.run([SCRIPTS / "docker-engine.sh", "up"], env=environment, check=True)
        shell = 'eval "$(scripts/docker-engine.sh env)" && echo "$DOCKER" && echo "${DOCKER_HOST:-}"'
        done = subprocess.run(
            ["bash", "-c", shell], cwd=settings.CHECKOUT, env=environment, text=True, stdout=subprocess.PIPE, check=True
        )
        program, host = done.stdout.splitlines()
        return cls(program, environment | ({"DOCKER_HOST": host} if host else {}))

    def run(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """`docker ...`, with what it says."""
        done = subprocess.run(
            [self.program, *arguments], env=self.environment, capture_output=True, text=True, check=False, **options
        )
        assert not check or done.returncode == 0, f"docker {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def __call__(self, *arguments: str, **options: Any) -> str:
        return self.run(*arguments, **options).stdout.strip()


@dataclass
class Stack:
    """A Compose project of the tests' own, on free ports, with secrets of its own."""

    docker: Engine
    home: Path
    variables: dict[str, str]
    project: str
    figures: list[dict[str, Any]] = field(default_factory=list)

    # --- Compose

    def compose(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """`scripts/compose.sh ...`, as a user runs it."""
        environment = {**self.docker.environment, **self.variables}
        done = subprocess.run(
            [SCRIPTS / "compose.sh", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )
        assert not check or done.returncode == 0, f"compose.sh {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def secret(self, name: str) -> str:
        return (self.secrets / name).read_text()

    @property
    def secrets(self) -> Path:
        return self.home / "compose" / "secrets"

    # --- containers

    def containers(self, service: str = "", number: int = 0) -> list[str]:
        """Ids of the containers of a service, or of all; those that have ended are among them. Of several of a service,
        all or that one.
        """
        labels = {"project": self.project, "oneoff": "False", "service": service, "container-number": str(number or "")}
        named = [f"label=com.docker.compose.{name}={value}" for name, value in labels.items() if value]
        return self.docker("ps", "-aq", "--no-trunc", *(part for text in named for part in ("--filter", text))).split()

    def container(self, service: str) -> str:
        [found] = self.containers(service)
        return found

    def inspect(self, container: str) -> dict[str, Any]:
        [found] = json.loads(self.docker("inspect", container))
        return found

    def state(self, container: str) -> dict[str, Any]:
        return self.inspect(container)["State"]

    def answers(self, service: str) -> bool:
        """Each of its containers runs, and its HEALTHCHECK's own command says so now."""
        found = [self.inspect(container) for container in self.containers(service)]
        return bool(found) and all(each["State"]["Running"] and self._is_well(each) for each in found)

    def _is_well(self, inspected: dict[str, Any]) -> bool:
        kind, *command = inspected["Config"]["Healthcheck"]["Test"]
        command = ["sh", "-c", *command] if kind == "CMD-SHELL" else command
        return self.docker.run("exec", inspected["Id"], *command, check=False).returncode == 0

    def execute(
        self, service: str, *command: str, check: bool = True, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        return self.docker.run(
            "exec", *["-i"] * ("input" in options), self.containers(service)[0], *command, check=check, **options
        )

    def sql(self, statement: str, database: str = "airflow") -> str:
        """Of the server's administrator, through its socket."""
        return self.execute("postgres", "psql", "-U", "postgres", "-d", database, "-qAtc", statement).stdout.strip()

    def logs(self, container: str, *options: str) -> str:
        done = self.docker.run("logs", *options, container)
        return done.stdout + done.stderr

    def kill(self, container: str) -> None:
        """SIGKILL to its first process, from outside: `docker kill` would count as the user's wish, and no restart
        policy applies to that.
        """
        pid = self.state(container)["Pid"]
        image = self.inspect(self.container("redis"))["Image"]
        self.docker(
            "run",
            "--rm",
            "--pid",
            "host",
            "--user",
            "0",
            "--network",
            "none",
            "--entrypoint",
            "sh",
            image,
            "-c",
            f"kill -9 {pid}",
        )

    def run_container(
        self, service: str, *options: str, command: tuple[str, ...] | None = None, seconds: float = patience.SECONDS
    ) -> tuple[int, str]:
        """A container as the service's, with more options; it is ended after so many seconds. Exit status (-1 where it
        was ended) and what it said.
        """
        found = self.inspect(self.container(service))
        name = f"{self.project}-{uuid.uuid4().hex[:8]}"
        variables = [part for text in found["Config"]["Env"] for part in ("-e", text)]
        mounts = [
            f"{mount.get('Name') or mount['Source']}:{mount['Destination']}{'' if mount['RW'] else ':ro'}"
            for mount in found["Mounts"]
        ]
        binds = [part for mount in mounts if not mount.startswith("/dev/") for part in ("-v", mount)]
        temporary = [
            part
            for folder, how in (found["HostConfig"]["Tmpfs"] or {}).items()
            for part in ("--tmpfs", f"{folder}:{how}".rstrip(":"))
        ]
        entrypoint = found["Config"]["Entrypoint"] or []
        arguments = (
            [*entrypoint[1:], *(found["Config"]["Cmd"] or [])] if command is None else [*entrypoint[1:], *command]
        )
        first, *others = found["NetworkSettings"]["Networks"]
        self.docker(
            "create",
            "--name",
            name,
            "--label",
            f"millrace.test={self.project}",
            "--network",
            first,
            "--read-only",
            "--no-healthcheck",
            *variables,
            *binds,
            *temporary,
            *options,
            *(("--entrypoint", entrypoint[0]) if entrypoint else ()),
            found["Image"],
            *arguments,
        )
        try:
            for network in others:
                self.docker("network", "connect", network, name)
            self.docker("start", name)
            code = self.docker("wait", name, timeout=seconds)
            return int(code), self.logs(name)
        except subprocess.TimeoutExpired:
            return -1, self.logs(name)
        finally:
            self.docker("rm", "-f", name)

    def settle(self) -> None:
        """Wait until everything answers, so that no test finds the trouble of the one before."""
        of_ours = ("--filter", f"label=com.docker.compose.project={self.project}", "--filter", "health=healthy")
        healthy = self.docker("ps", *of_ours, "--format", '{{.Label "com.docker.compose.service"}}').split()
        for service in (*SERVERS, *COMPONENTS):
            if service not in healthy:  # Docker asks only every few seconds
                patience.until(lambda name=service: self.answers(name), f"{service} does not answer", every=0.5)

    # --- what a user sees

    def port(self, service: str, inside: int, container: str = "") -> int:
        """Docker may give another one after a restart."""
        return int(
            self.docker("port", container or self.containers(service)[0], str(inside))
            .splitlines()[0]
            .rpartition(":")[2]
        )

    def airflow(self, name: str = "admin", password: str = "") -> Services:
        return Services(
            f"http://127.0.0.1:{self.port('api-server', 8080)}", "", name, password or self.secret("admin_password")
        )

    def features(
        self, path: str, body: Any = None, container: str = "", headers: Mapping[str, str] | None = None
    ) -> Any:
        """What the feature server answers, decoded; urllib's HTTPError for what it refuses."""
        url = f"http://127.0.0.1:{self.port('features', 6566, container)}{path}"
        request = urllib.request.Request(
            url,
            json.dumps(body).encode() if body is not None else None,
            {"Content-Type": "application/json", **(headers or {})},
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def online(self, moment: datetime, container: str = "") -> dict[str, list[Any]]:
        """Every feature of the service, of every pair of customer and product, over HTTP."""
        answer = self.features(
            "/get-online-features", {"feature_service": SERVICE, "entities": entities(moment)}, container
        )
        return {
            name: result["values"]
            for name, result in zip(answer["metadata"]["feature_names"], answer["results"], strict=True)
        }

    def serve_again(self) -> subprocess.CompletedProcess[str]:
        """`millrace serve --fresh`, beside the scheduler: a load of every row."""
        return self.execute("scheduler", "millrace", "serve", "--fresh", check=False)

    # --- figures

    def note(self, fault: str, **seconds: Any) -> None:
        """Keep a figure for the table that closes the run."""
        self.figures.append(
            {
                "fault": fault,
                **{name: round(value, 1) if isinstance(value, float) else value for name, value in seconds.items()},
            }
        )

    @contextmanager
    def filled(self, folder: str = "/data", spare_kilobytes: int = 0) -> Iterator[None]:
        """No room in the bucket's volume."""
        self.execute(
            "s3",
            "sh",
            "-c",
            f"cat /dev/zero > {folder}/filler 2>/dev/null; truncate -s -{spare_kilobytes}K {folder}/filler",
        )
        try:
            yield
        finally:
            self.execute("s3", "rm", f"{folder}/filler")


def entities(moment: datetime) -> dict[str, list[Any]]:
    pairs = [(customer, product) for customer in CUSTOMERS for product in PRODUCTS]
    return {
        "customer_id": [customer for customer, _ in pairs],
        "product_id": [product for _, product in pairs],
        "request_time": [moment.isoformat()] * len(pairs),
    }


def free_ports(count: int) -> int:
    """The first of so many free ports in a row: a service with several containers needs a range."""
    for first in range(21000, 29000, count):
        with suppress(OSError):
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    raise LookupError("no free ports")


# ------------------------------------------------------------------------------------------------------------ runs


@dataclass
class Days:
    """A shop that a day is added to at a time, run by the stack and by this process, which nobody disturbs."""

    stack: Stack
    shop: Shop
    control: Path
    expected: dict[str, dict[str, Any]] = field(default_factory=dict)
    compared: date | None = None
    """The newest day of which both sides were the same."""

    @property
    def last(self) -> date:
        """The newest day that has landed."""
        return date.fromisoformat(max(path.name for path in (self.shop.root / "transactions").iterdir()))

    def land(self) -> tuple[str, str]:
        """Files of a day more, a late one for a day that is done among them; the interval to run: all days, so that no
        test depends on the one before.
        """
        self.catch_up()
        day = self.last + timedelta(days=1)
        number = 100 * (day - FIRST_DAY).days
        self.shop.land(
            "transactions",
            [
                *(
                    purchase(number + n, product=1 + n % 3, customer=1 + n % 2, at=f"{day} 0{n}:00:00", quantity=n)
                    for n in range(6)
                ),
                purchase(number, at=f"{day} 00:00:00", customer=1, quantity=0),
                purchase(number + 7, at=f"{day} 09:00:00") | {"household_id": None},
                purchase(number + 8, at=f"{day - timedelta(days=1)} 23:30:00", customer=2),
            ],
            day=day,
        )
        self.shop.land(
            "products",
            [{"product_id": 3, "manufacturer_id": number, "department": "BAKERY", "brand": "Private"}],
            day=day,
        )
        return str(FIRST_DAY), str(day + timedelta(days=1))

    def catch_up(self) -> None:
        """Carry on both sides what a test before left behind, so that its failure is not the next one's as well."""
        if self.compared in (None, self.last):
            return
        interval = str(FIRST_DAY), str(self.last + timedelta(days=1))
        run = self.trigger(interval)
        assert wait(run) == "success", run.error()
        self.carry(interval)
        self.compared = self.last

    def trigger(self, interval: tuple[str, str]) -> demo.Run:
        return demo.Run.trigger(self.stack.airflow(), dict(zip(("start", "end"), interval, strict=True)))

    def carry(self, interval: tuple[str, str]) -> None:
        """In this process."""
        from millrace import pipeline

        with pytest.MonkeyPatch.context() as patch:
            set_home(self.control, patch)
            patch.setenv("MILLRACE_LANDING", str(self.shop.root))
            self.expected = {report.table: vars(report.account) for report in pipeline.run_all(*interval, "control")}
            pipeline.serve()

    def moment(self) -> datetime:
        return datetime(self.last.year, self.last.month, self.last.day, 12, tzinfo=UTC) + timedelta(days=1)

    def online(self) -> dict[str, list[Any]]:
        """What `Stack.online` answers, of this process, by the SDK."""
        from features import registry

        with pytest.MonkeyPatch.context() as patch:
            set_home(self.control, patch)
            store = registry.open_store()
            names = entities(self.moment())
            rows = [dict(zip(names, values, strict=True)) for values in zip(*names.values(), strict=True)]
            rows = [row | {"request_time": datetime.fromisoformat(row["request_time"])} for row in rows]
            answer = store.get_online_features(store.get_feature_service(SERVICE), rows).to_dict()
        return {
            name: [int(value.timestamp()) if isinstance(value, datetime) else value for value in values]
            for name, values in answer.items()
        }

    def lake(self, folder: Path) -> Path:
        """A copy of the stack's lake, as it lies in the bucket."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        archive = subprocess.run(
            [
                self.stack.docker.program,
                "exec",
                self.stack.container("s3"),
                "tar",
                "-C",
                "/data/millrace/lake",
                "-cf",
                "-",
                ".",
            ],
            env=self.stack.docker.environment,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
        subprocess.run(["tar", "-C", str(folder), "-xf", "-"], input=archive, check=True)
        return folder

    def compare(self, run: demo.Run | None = None) -> None:
        """Tables, row accounts and every online value of the stack are those of this process."""
        assert differing(self.control / "lake", self.lake(self.control / "theirs")) == []
        if run:
            accounts = {
                table.qualified: vars(TableReport.from_dict(run.result(table.qualified)).account)
                for table in catalog.tables()
            }
            assert {table: account for table, account in accounts.items() if account != self.expected[table]} == {}, (
                self.expected
            )
        assert self.stack.online(self.moment()) == self.online()
        self.compared = self.last


def wait(run: demo.Run) -> str:
    """How it ends."""
    patience.until(lambda: run.state() in ("success", "failed"), f"{run.id} does not end", every=0.5)
    return run.state()


def task(run: demo.Run, name: str) -> dict[str, Any]:
    return run._get(f"/taskInstances/{name}")


def until_task(run: demo.Run, name: str, *states: str) -> None:
    """Until the task is in one of the states."""

    def is_there() -> bool:
        state = task(run, name)["state"]
        assert state not in ("failed", "upstream_failed") or state in states, run.error()
        return state in states

    patience.until(is_there, f"{name} is not {' or '.join(states)}", every=0.2)


def elapsed(condition: Callable[[], object], what: str, since: float) -> float:
    """Seconds from then until the condition holds."""
    patience.until(condition, what, every=0.2)
    return time.monotonic() - since
