"""Starting Airflow on a machine of any speed: `up` waits and says for what, and `status` tells starting, running,
failed and stopped apart.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lake import settings
from lake.settings import SettingError
from millrace import services
from millrace.services import ServicesError

HOST = Path(__file__).with_name("slow_host.py")


@pytest.fixture(autouse=True)
def slow(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """A host that is ready when the file `ready` is there; ended afterwards."""
    for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
        monkeypatch.delenv(name)
    with socket.socket() as airflow, socket.socket() as features:
        for probe, name in ((airflow, "MILLRACE_PORT"), (features, "MILLRACE_FEATURES_PORT")):
            probe.bind(("127.0.0.1", 0))
            monkeypatch.setenv(name, str(probe.getsockname()[1]))
    use = lambda *arguments: monkeypatch.setattr(services, "HOST", (sys.executable, str(HOST), *arguments))  # noqa: E731
    use()
    yield use
    services.down()


class Watcher:
    """What `up` says; the file `ready` appears once it has said a thing."""

    def __init__(self, home: Path, until: str) -> None:
        self.lines: list[str] = []
        self.ready, self.until = home / "ready", until

    def __call__(self, message: str) -> None:
        self.lines.append(message)
        if self.until in message:
            self.ready.touch()


@pytest.mark.parametrize("component", ["scheduler", "triggerer", "dag_processor"])
def test_a_slow_start_is_waited_for_and_said(home: Path, monkeypatch: pytest.MonkeyPatch, component: str) -> None:
    monkeypatch.setattr(services, "SLOW_SECONDS", 0.0)
    (home / "missing").write_text(component)
    words = component.replace("_", " ")
    result = Watcher(home, f"waiting for the {words}. It takes longer where")
    services.up(result)
    assert f"Waiting for the {words}" in result.lines
    assert any(line.startswith("Airflow is still starting after ") and result.until in line for line in result.lines)
    assert result.lines[-1].startswith("Airflow is ready at http://127.0.0.1:")
    message = services.status()
    assert message["host"] == "running"
    assert message[component] == "healthy"
    assert "next" not in message


def test_giving_up_ends_nothing_and_another_up_waits_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_START_SECONDS", "1")
    with pytest.raises(
        ServicesError,
        match=(
            r"^Airflow is still starting after \d+ s, and goes on: waiting for the \w+.*`make status`.*`make up` waits"
            r" again"
        ),
    ):
        services.up()
    message = services.status()
    assert message["host"].startswith("starting for ")
    assert message["host"].endswith("waiting for the scheduler")
    assert message["scheduler"] == "starting"
    assert message["next"].startswith("`make up` waits until it is ready; logs are in ")
    assert services.main(["status"]) == 0
    host = services._read_record().pid
    monkeypatch.setenv("MILLRACE_START_SECONDS", "600")
    (home / "ready").touch()
    services.up()
    assert services._read_record().pid == host
    assert services.status()["host"] == "running"


def test_a_host_that_ends_while_it_starts_is_reported_at_once_and_has_failed(slow: Callable[..., None]) -> None:
    slow("crash")
    with pytest.raises(
        ServicesError, match=r"Airflow ended while it started\. The end of .*host\.log:\nthe scheduler has no database"
    ):
        services.up()
    message = services.status()
    assert message["host"] == "failed: it ended by itself"
    assert message["log"] == "the scheduler has no database"
    assert services.main(["status"]) == 1
    assert services.down() is False
    assert services.status() == {"host": "stopped"}


def test_down_need_not_wait_for_up(home: Path) -> None:
    message = Watcher(home, "never")
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(services.up, message)
        while "Waiting for the scheduler" not in message.lines:
            assert not starting.done() or starting.result()
            time.sleep(0.05)
        assert services.down() is True
        with pytest.raises(ServicesError, match="Airflow was stopped while it started"):
            starting.result()
    assert services.status() == {"host": "stopped"}


def test_a_component_that_fails_later_is_not_starting(home: Path) -> None:
    (home / "ready").touch()
    services.up()
    (home / "ready").unlink()
    message = services.status()
    assert message["host"] == "running, but waiting for the scheduler"
    assert (message["scheduler"], message["triggerer"]) == ("unhealthy", "healthy")


def test_a_host_that_cannot_be_noted_down_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[services.Record] = []

    def fail(record: services.Record) -> None:
        noted.append(record)
        raise OSError(28, "No space left on device", "services.json")

    monkeypatch.setattr(services, "_write_record", fail)
    assert services.main(["up"]) == 1
    (record,) = noted
    assert services._processes(record) == []


@pytest.mark.parametrize("text", ["0", "-1", "soon"])
def test_a_wait_that_is_no_number_of_seconds(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("MILLRACE_START_SECONDS", text)
    with pytest.raises(
        SettingError, match=rf"^MILLRACE_START_SECONDS is '{text}'\. Set it to a number of seconds, 1 or more"
    ):
        services.up()


SUPERVISE = """
import os, sys, time
from millrace import host
host.HEALTHY_SECONDS = 0
component = host.Component("scheduler", lambda: time.sleep(3600))
component.start()
print(component.pid, flush=True)
host._supervise({"scheduler": component})
"""


def test_a_component_that_was_killed_is_started_again_and_status_tells(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "ready").touch()
    services.up()
    environment = {**os.environ, "MILLRACE_LOGS": str(home)}
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE],
        cwd=settings.CHECKOUT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout
        component = int(process.stdout.readline())
        os.kill(component, signal.SIGKILL)
        assert "was ended by SIGKILL" in process.stdout.readline()
        while "Starting scheduler again." not in process.stdout.readline():
            pass
        written = home / "run" / "restarts.json"
        while not written.exists():
            time.sleep(0.05)
        record = json.loads(written.read_text())
        assert record["host"] == process.pid
        written.write_text(
            json.dumps({**record, "host": services._read_record().pid})
        )  # as the host of these services writes it
        assert services.status()["scheduler"].startswith(
            "healthy; started again 1 time, the last time because it was ended by SIGKILL after "
        )
        written.write_text(json.dumps(record))
        assert services.status()["scheduler"] == "healthy", "the note of another host counts for nothing"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        for child in services.psutil.process_iter():
            if services._session(child) == process.pid:
                child.kill()
        process.wait()
