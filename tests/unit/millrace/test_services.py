"""The Airflow services without Airflow: ports, environment, secrets, and whose processes `down` may end."""

import json
import os
import socket
import stat
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import psutil
import pytest

from etl.spark import server as spark
from lake import settings
from lake.settings import SettingError
from millrace import components, demo, environment, services
from millrace.services import ApiError, Record, Services, ServicesError

# `down` ends every process of the machine that carries this token: two test runs must not share one.
OURS = uuid.uuid4().hex


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MILLRACE_PORT", raising=False)
    monkeypatch.delenv("MILLRACE_FEATURES_PORT", raising=False)

    def start(*ports: int) -> None:
        pytest.fail(f"Airflow would have started on port {ports[0]}")

    monkeypatch.setattr(services, "_start", start)


def write_record(**changes: Any) -> Record:
    fields = {"pid": 1, "port": 1, "token": OURS, "started_at": "2026-01-01T00:00:00+00:00", "dags_folder": "dags"}
    record = Record(**{**fields, **changes})
    path = settings.home() / "run" / "services.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(vars(record)))
    return record


@pytest.fixture
def sleeper() -> Iterator[Any]:
    started: list[subprocess.Popen[bytes]] = []

    def start(token: str | None, code: str = "import time; time.sleep(60)") -> subprocess.Popen[bytes]:
        variables = {**os.environ, **({services.TOKEN: token} if token else {})}
        process = subprocess.Popen([sys.executable, "-c", code], env=variables, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_services_of_another_project_are_not_taken_for_ours(sleeper: Any) -> None:
    """They would run the other one's tables, in the same home."""
    write_record(pid=sleeper(OURS).pid, port=8080, project="/elsewhere/shop")
    with pytest.raises(
        services.ServicesError,
        match=r"Airflow runs for the project in /elsewhere/shop, and this is .*cinema\. Run `make down` first",
    ):
        services.up()


class TestEnvironment:
    def test_one_port_moves_every_address(self) -> None:
        variables = environment.environment(9090, 6566, {})
        assert variables["AIRFLOW__API__PORT"] == "9090"
        assert variables["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:9090"
        assert variables["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:9090/execution/"

    def test_binds_to_loopback_only_whatever_the_caller_says(self) -> None:
        assert (
            environment.environment(8080, 6566, {"AIRFLOW__API__HOST": "0.0.0.0"})["AIRFLOW__API__HOST"] == "127.0.0.1"
        )

    def test_every_component_works_for_the_project_of_who_started_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They run in another folder, so a relative path would name another one, and an empty one the example."""
        (tmp_path / "shop").mkdir()
        (tmp_path / "shop" / "millrace.toml").write_text('name = "started_shop"\n')
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MILLRACE_PROJECT", "shop")
        assert environment.environment(8080, 6566, {"MILLRACE_PROJECT": "shop"})["MILLRACE_PROJECT"] == str(
            tmp_path / "shop"
        )
        monkeypatch.setenv("MILLRACE_PROJECT", "")
        monkeypatch.chdir(tmp_path / "shop")
        assert environment.environment(8080, 6566, {"MILLRACE_PROJECT": ""})["MILLRACE_PROJECT"] == str(
            tmp_path / "shop"
        )

    def test_the_callers_dags_folder_wins(self) -> None:
        assert (
            environment.environment(8080, 6566, {"AIRFLOW__CORE__DAGS_FOLDER": "/elsewhere"})[
                "AIRFLOW__CORE__DAGS_FOLDER"
            ]
            == "/elsewhere"
        )

    def test_the_callers_airflow_home_does_not(self) -> None:
        assert environment.environment(8080, 6566, {"AIRFLOW_HOME": "/elsewhere"})["AIRFLOW_HOME"] == str(
            settings.home() / "airflow"
        )

    def test_our_code_and_our_commands_come_first(self) -> None:
        variables = environment.environment(8080, 6566, {"PYTHONPATH": "/theirs", "PATH": "/usr/bin"})
        assert variables["PYTHONPATH"].split(os.pathsep) == [str(environment.CHECKOUT), "/theirs"]
        assert variables["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin"]

    def test_compiled_bytecode_is_kept(self) -> None:
        assert "PYTHONDONTWRITEBYTECODE" not in environment.environment(8080, 6566, {"PYTHONDONTWRITEBYTECODE": "1"})

    def test_lineage_goes_through_our_transport(self) -> None:
        assert (
            json.loads(environment.environment(8080, 6566, {})["AIRFLOW__OPENLINEAGE__TRANSPORT"])["type"]
            == "lineage.transport.FileOrServer"
        )

    def test_an_address_for_lineage_reaches_the_tasks(self) -> None:
        assert (
            environment.environment(8080, 6566, {"OPENLINEAGE_URL": "http://marquez:5000"})["OPENLINEAGE_URL"]
            == "http://marquez:5000"
        )


class TestPort:
    def test_default(self) -> None:
        assert settings.airflow_port() == 8080

    @pytest.mark.parametrize("text", ["0", "65536", "http", "-1", "80.5"])
    def test_refuses_what_is_no_port(self, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MILLRACE_PORT", text)
        with pytest.raises(SettingError, match=rf"^MILLRACE_PORT is '{text}'. Set it to a port from 1 to 65535"):
            settings.airflow_port()

    def test_a_port_held_by_a_stranger_is_named_with_the_remedy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            port = stranger.getsockname()[1]
            monkeypatch.setenv("MILLRACE_PORT", str(port))
            with pytest.raises(ServicesError, match=rf"Port {port} is in use.*MILLRACE_PORT={port + 1}"):
                services.up()
        assert not (settings.home() / "run" / "services.json").exists()

    def test_the_feature_server_has_feasts_port_or_the_one_after_airflows(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert settings.features_port() == 6566
        monkeypatch.setenv("MILLRACE_PORT", "8090")
        assert settings.features_port() == 8091
        monkeypatch.setenv("MILLRACE_FEATURES_PORT", "7000")
        assert settings.features_port() == 7000
        monkeypatch.setenv("MILLRACE_FEATURES_PORT", "seven")
        with pytest.raises(SettingError, match=r"^MILLRACE_FEATURES_PORT is 'seven'. Set it to a port"):
            settings.features_port()

    def test_options_of_the_feature_server_are_checked_before_anything_starts(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MILLRACE_FEATURES_WORKERS", "many")
        with pytest.raises(SettingError, match=r"^MILLRACE_FEATURES_WORKERS is 'many'. Set it to a number"):
            services.up()
        assert not (settings.home() / "run").exists()

    def test_a_feature_port_held_by_a_stranger_is_named_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            monkeypatch.setenv("MILLRACE_PORT", str(free.getsockname()[1]))
        with socket.create_server(("127.0.0.1", 0)) as stranger:
            port = stranger.getsockname()[1]
            monkeypatch.setenv("MILLRACE_FEATURES_PORT", str(port))
            with pytest.raises(ServicesError, match=rf"Port {port} is in use.*MILLRACE_FEATURES_PORT={port + 1}"):
                services.up()

    def test_running_services_do_not_move_silently(self, sleeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        write_record(pid=sleeper(OURS).pid, port=4711)
        monkeypatch.setenv("MILLRACE_PORT", "4712")
        with pytest.raises(ServicesError, match="already runs on port 4711, and MILLRACE_PORT asks for 4712"):
            services.up()


class BetweenPrograms:
    """A process whose environment is empty the first times that it is looked at."""

    def __init__(self, looks: int, age: float = 0.0, parent: int = 1) -> None:
        self.looks, self.age, self.parent = looks, age, parent

    def environ(self) -> dict[str, str]:
        self.looks -= 1
        return {} if self.looks >= 0 else {services.TOKEN: OURS}

    def create_time(self) -> float:
        return time.time() - self.age

    def ppid(self) -> int:
        return self.parent

    def is_running(self) -> bool:
        return True

    def status(self) -> str:
        return psutil.STATUS_RUNNING


@pytest.mark.parametrize(
    ("process", "ours"),
    [
        (BetweenPrograms(0), True),
        (BetweenPrograms(3), True),
        (BetweenPrograms(3, age=2.0), True),
        (BetweenPrograms(3, age=60.0), False),
        (BetweenPrograms(3, parent=services.KERNEL), False),
    ],
)
def test_a_process_between_two_programs_is_looked_at_again(process: Any, ours: bool) -> None:
    assert services._has_token(process, OURS) is ours


class TestSecrets:
    def test_only_this_user_may_read_them(self) -> None:
        folder = settings.home() / "airflow"
        environment.shared_secrets(folder)
        environment.admin_password(folder)
        assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
            "secrets.json": 0o600,
            "simple_auth_manager_passwords.json.generated": 0o600,
        }
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_they_stay_the_same(self) -> None:
        folder = settings.home() / "airflow"
        assert environment.shared_secrets(folder) == environment.shared_secrets(folder)
        assert environment.admin_password(folder) == environment.admin_password(folder)

    def test_every_home_has_its_own(self, tmp_path: Path) -> None:
        assert environment.shared_secrets(tmp_path / "a") != environment.shared_secrets(tmp_path / "b")

    def test_the_password_is_not_printed_by_accident(self) -> None:
        assert "hush" not in repr(Services("http://127.0.0.1:1", "http://127.0.0.1:2", "admin", "hush"))


class TestDown:
    def test_nothing_runs(self) -> None:
        assert services.down() is False
        assert services.status() == {"host": "stopped"}

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
    def test_a_damaged_pid_file_is_no_reason_to_fail(self, text: str) -> None:
        write_record()
        (settings.home() / "run" / "services.json").write_text(text)
        assert services.down() is False

    def test_a_recycled_pid_is_spared(self, sleeper: Any) -> None:
        stranger = sleeper(None)
        write_record(pid=stranger.pid)
        assert services.down() is False
        assert stranger.poll() is None

    def test_services_of_another_home_are_spared(self, sleeper: Any) -> None:
        other = sleeper("theirs")
        write_record(pid=other.pid)
        assert services.down() is False
        assert other.poll() is None

    def test_ends_the_whole_session_and_forgets_it(self, sleeper: Any) -> None:
        child = (
            "import os, subprocess, sys, time\nprint(subprocess.Popen(['sleep', '60'], env={}).pid,"
            " flush=True)\ntime.sleep(60)"
        )
        host = sleeper(OURS, child)
        write_record(pid=host.pid)
        time.sleep(0.5)
        assert services.down() is True
        assert host.poll() is not None
        assert services.down() is False
        assert not [
            process
            for process in psutil.process_iter()
            if services._session(process) == host.pid and services._is_alive(process)
        ]

    def test_ends_what_outlived_the_host(self, sleeper: Any) -> None:
        survivor = sleeper(OURS)
        write_record(pid=2**22)
        assert services.down() is True
        assert survivor.poll() is not None


class _Api(BaseHTTPRequestHandler):
    tokens: ClassVar[list[str]] = []
    troubles: ClassVar[list[str]] = []
    """What happens to the next requests, before they are answered: `503`, `reset`, `torn`, or `lost` (done, but not
    answered).
    """
    made: ClassVar[list[str]] = []
    """The ids of the runs that were made."""

    def do_POST(self) -> None:
        if self.path.endswith("/dagRuns"):
            self._make_run()
            return
        self.tokens.append(f"token-{len(self.tokens)}")
        self._answer(201, {"access_token": self.tokens[-1]})

    def _make_run(self) -> None:
        run = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["dag_run_id"]
        known = run in self.made
        if not known:
            self.made.append(run)
        if not self._in_trouble():
            self._answer(409 if known else 200, {"dag_run_id": run})

    def _in_trouble(self) -> bool:
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble == "503":
            self._answer(503, {"detail": "not now"})
        elif trouble == "torn":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b'{"path"')
        elif trouble:
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )  # closed by a reset
        return bool(trouble)

    def do_GET(self) -> None:
        if self._in_trouble():
            return
        if self.path == "/missing":
            self._answer(404, {"detail": "no such DAG"})
        elif self.headers["Authorization"] != "Bearer token-1":
            self._answer(401, {"detail": "expired"})
        else:
            self._answer(200, {"path": self.path})

    def _answer(self, status: int, body: dict[str, str]) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    for name in ("tokens", "troubles", "made"):
        monkeypatch.setattr(_Api, name, [])
    monkeypatch.setattr(services, "FIRST_PAUSE", 0.01)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server = HTTPServer(("127.0.0.1", 0), _Api)
    Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield Services(f"http://127.0.0.1:{server.server_port}", "http://127.0.0.1:2", "admin", "secret")
    server.shutdown()
    server.server_close()


class TestApi:
    def test_signs_in_again_when_the_token_has_expired(self, api: Services) -> None:
        assert api.api("GET", "/api/v2/dags") == {"path": "/api/v2/dags"}
        assert _Api.tokens == ["token-0", "token-1"]

    def test_an_error_says_what_was_asked_and_answered(self, api: Services) -> None:
        with pytest.raises(ApiError, match=r"GET /missing answered 404: .*no such DAG") as caught:
            api.api("GET", "/missing")
        assert caught.value.status == 404

    @pytest.mark.parametrize("trouble", ["503", "reset", "torn"])
    def test_a_call_that_may_be_repeated_survives_what_passes(self, api: Services, trouble: str) -> None:
        _Api.tokens.append("token-0")
        _Api.troubles += [trouble] * 3
        assert api.api("GET", "/api/v2/dags", patience=60) == {"path": "/api/v2/dags"}
        assert not _Api.troubles

    @pytest.mark.parametrize("trouble", ["503", "reset", "torn"])
    def test_without_patience_it_is_made_once(self, api: Services, trouble: str) -> None:
        _Api.troubles += [trouble] * 2
        with pytest.raises((ApiError, OSError)):
            api.api("GET", "/api/v2/dags")
        assert _Api.troubles == [trouble]

    def test_a_refusal_is_not_repeated(self, api: Services) -> None:
        with pytest.raises(ApiError, match="404"):
            api.api("GET", "/missing", patience=60)

    def test_a_run_whose_answer_was_lost_is_not_triggered_twice(self, api: Services) -> None:
        _Api.troubles.append("lost")
        run = demo.Run.trigger(api, {"start": "2017-01-01", "end": "2017-01-02"})
        assert _Api.made == [run.id]

    def test_an_airflow_that_stays_silent_ends_the_demo_with_a_sentence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demo, "PATIENCE_SECONDS", 0.0)
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            silent = Services(f"http://127.0.0.1:{closed.getsockname()[1]}", "http://127.0.0.1:2", "admin", "secret")
            with pytest.raises(
                demo.DemoError, match=r"has not answered for 0 s .*`make status` says what runs.*run `make demo` again"
            ):
                demo.Run(silent, "x").state()


def test_spark_without_java_is_reported_before_anything_starts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MILLRACE_PORT", str(free.getsockname()[1]))
    monkeypatch.setenv("MILLRACE_ENGINE", "spark")
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr("etl.spark.java._of_wheel", lambda: None)
    with pytest.raises(
        ServicesError, match=r"^MILLRACE_ENGINE=spark needs Java, and there is none on PATH\. Install Java 17 or 21"
    ):
        services.up()
    assert not (home / "run" / "services.json").exists()
    assert services.status() == {"host": "stopped"}


def test_what_is_not_airflow_gets_none_of_its_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(os, "execvpe", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(spark, "command", lambda _port: ["spark-submit"])
    monkeypatch.setattr(spark, "environment", lambda: dict(os.environ))
    for name in ("AIRFLOW__CORE__FERNET_KEY", "AIRFLOW_CONN_SHOP", "_AIRFLOW_WWW_USER_PASSWORD", "MILLRACE_DATABASE"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv(services.TOKEN, OURS)
    components.features()
    components.spark()
    assert len(started) == 2
    for _program, _arguments, variables in started:
        assert "secret" not in variables.values()
        assert variables[services.TOKEN] == OURS
