"""What the settings of the components become, and which are refused, before anything starts."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from etl.spark.server import free_port
from lake import settings
from lake.settings import SettingError
from millrace import cli, components, environment, foreground, health, metadata
from millrace.health import Health, Probe


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in os.environ if name.startswith(("MILLRACE_", "AIRFLOW__")) and name != "MILLRACE_HOME"
    ]:
        monkeypatch.delenv(name)


def variables(**caller: str) -> dict[str, str]:
    return environment.environment(8080, 6566, caller)


class TestDatabase:
    def test_without_one_airflow_uses_its_file_in_the_home(self) -> None:
        assert not [name for name in variables() if "SQL_ALCHEMY" in name]

    def test_both_drivers_take_the_same_options(self) -> None:
        result = variables(
            MILLRACE_DATABASE="postgresql://me:se%40cret@db:5433/airflow?sslmode=verify-full&sslrootcert=/ca.pem"
        )
        rest = "me:se%40cret@db:5433/airflow?sslmode=verify-full&sslrootcert=/ca.pem"
        assert result["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"postgresql+psycopg2://{rest}"
        assert result["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] == f"postgresql+psycopg_async://{rest}"

    def test_airflows_own_variable_wins(self) -> None:
        result = variables(
            MILLRACE_DATABASE="postgresql://db/a", AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="postgresql://db/b"
        )
        assert result["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "postgresql://db/b"
        assert result["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] == "postgresql+psycopg_async://db/b"

    @pytest.mark.parametrize("url", ["mysql://me:secret@db/airflow", "secret", "/var/secret.db"])
    def test_another_is_refused_and_not_shown(self, url: str) -> None:
        with pytest.raises(SettingError, match=r"^MILLRACE_DATABASE is set to a .*Set it to postgresql://") as caught:
            variables(MILLRACE_DATABASE=url)
        assert "secret" not in str(caught.value)

    def test_one_that_does_not_answer_is_reported_without_its_password(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MILLRACE_DATABASE", f"postgresql://me:secret@127.0.0.1:{free_port()}/airflow")
        with pytest.raises(
            metadata.MetadataError,
            match=r"^the database that MILLRACE_DATABASE names cannot be used: .*refused.*See that it runs",
        ) as caught:
            metadata.migrate(lambda _message: None)
        assert "secret" not in str(caught.value)


class TestTaskLogs:
    def test_they_lie_in_the_home(self) -> None:
        assert variables()["AIRFLOW__LOGGING__BASE_LOG_FOLDER"] == str(settings.home() / "logs" / "tasks")

    def test_or_in_a_bucket(self) -> None:
        result = variables(MILLRACE_TASK_LOGS="s3://logs/tasks/")
        assert result["AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER"] == "s3://logs/tasks"
        assert result["AIRFLOW__LOGGING__REMOTE_LOGGING"] == "True"

    @pytest.mark.parametrize("place", ["s3://bucket", "gs://bucket/logs", "s3:///logs"])
    def test_nowhere_else(self, place: str) -> None:
        with pytest.raises(SettingError, match=r"^MILLRACE_TASK_LOGS is .*Set it to a folder or to s3://bucket/prefix"):
            variables(MILLRACE_TASK_LOGS=place)


class TestAddresses:
    def test_components_reach_an_api_server_elsewhere_and_by_no_proxy(self) -> None:
        result = variables(MILLRACE_API_URL="http://api-server:8080/", NO_PROXY="theirs")
        assert result["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://api-server:8080/execution/"
        assert result["NO_PROXY"] == "127.0.0.1,localhost,api-server,theirs"

    def test_an_api_server_without_a_scheme_is_refused(self) -> None:
        with pytest.raises(SettingError, match=r"^MILLRACE_API_URL is 'api-server:8080'"):
            variables(MILLRACE_API_URL="api-server:8080")

    def test_the_address_to_listen_on_is_a_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MILLRACE_BIND", "0.0.0.0")
        assert variables()["AIRFLOW__API__HOST"] == "0.0.0.0"
        assert variables()["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/execution/"
        monkeypatch.setenv("MILLRACE_BIND", "fd00::5")
        assert variables()["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://[fd00::5]:8080/execution/"
        monkeypatch.setenv("MILLRACE_BIND", "everywhere")
        with pytest.raises(SettingError, match=r"^MILLRACE_BIND is 'everywhere'"):
            variables()


class TestLogins:
    def test_fab_is_a_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "AIRFLOW__CORE__AUTH_MANAGER" not in variables()
        monkeypatch.setenv("MILLRACE_AUTH", "fab")
        assert variables()["AIRFLOW__CORE__AUTH_MANAGER"].endswith(".FabAuthManager")
        monkeypatch.setenv("MILLRACE_AUTH", "ldap")
        with pytest.raises(SettingError, match=r"^MILLRACE_AUTH is 'ldap'"):
            variables()

    def test_no_component_gets_the_administrators_password(self) -> None:
        assert "MILLRACE_ADMIN_PASSWORD" not in variables(MILLRACE_ADMIN_PASSWORD="secret")

    def test_a_user_needs_fab(self) -> None:
        with pytest.raises(metadata.MetadataError, match="MILLRACE_AUTH=fab"):
            metadata.add_user("vera", "Viewer", "long-enough")

    def test_a_password_comes_from_a_file_and_is_not_too_short(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        added = []
        monkeypatch.setattr(metadata, "add_user", lambda *login: added.append(login))
        (file := tmp_path / "password").write_text("a long one \n")
        assert cli.main(["users", "add", "otto", "--role", "Op", "--password-file", str(file)]) == 0
        assert added == [("otto", "Op", "a long one ")]
        file.write_text("kurz\n")
        assert cli.main(["users", "add", "otto", "--role", "Op", "--password-file", str(file)]) == 1
        assert "the password has 4 characters, and at least 8 are needed" in (message := capsys.readouterr().err)
        assert "kurz" not in message
        assert len(added) == 1


class TestStart:
    @pytest.fixture(autouse=True)
    def _caught(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[tuple[list[str], dict[str, str]]] = []
        monkeypatch.setattr(
            os, "execve", lambda _program, arguments, variables: self.started.append((arguments, variables))
        )

    def test_components_that_share_a_database_need_the_same_secrets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MILLRACE_DATABASE", "postgresql://db/airflow")
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "key")
        with pytest.raises(
            SettingError,
            match=(
                r"^AIRFLOW__API_AUTH__JWT_SECRET, AIRFLOW__API__SECRET_KEY not set\. .* give all of them the same"
                r" values"
            ),
        ):
            foreground.start("scheduler")
        monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET_CMD", "cat /run/secrets/jwt")
        monkeypatch.setenv("AIRFLOW__API__SECRET_KEY", "key")
        foreground.start("scheduler")
        (arguments, _), *_ = self.started
        assert arguments[-2:] == ["millrace.foreground", "scheduler"]

    def test_components_of_one_home_share_those_of_the_home(self) -> None:
        foreground.start("scheduler")
        foreground.start("api-server")
        first, second = (variables for _, variables in self.started)
        assert environment.missing_secrets(first) == []
        assert {first[name] == second[name] for name in environment.SHARED_SECRETS} == {True}

    @pytest.mark.parametrize("name", ["features", "engine"])
    def test_what_is_not_airflow_gets_no_secret_of_its(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MILLRACE_DATABASE", "postgresql://me:opensesame@db/airflow")
        monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "opensesame")
        foreground.start(name)
        assert not [value for _, variables in self.started for value in variables.values() if "opensesame" in value]

    def test_a_wrong_setting_is_reported_before_anything_starts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MILLRACE_STOP_SECONDS", "soon")
        with pytest.raises(SettingError, match=r"^MILLRACE_STOP_SECONDS is 'soon'. Set it to a number of seconds"):
            foreground.start("triggerer")
        assert self.started == []


def test_two_who_make_secrets_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [*pool.map(lambda _: environment.shared_secrets(tmp_path)["AIRFLOW__CORE__FERNET_KEY"], range(8))]
    assert len(set(made)) == 1
    assert [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()] == [("secrets.json", 0o600)]


class TestHealth:
    def test_many_who_ask_cost_one_look(self) -> None:
        looked = []
        probe = Probe(lambda: looked.append(1) or Health())
        assert {probe.health() for _ in range(50)} == {Health()}
        assert len(looked) == 1

    def test_a_look_that_fails_is_reported_in_a_line(self) -> None:
        def look() -> Health:
            raise OSError("the database is away\nDETAIL: and more")

        assert Probe(look).health() == Health(unready="the database is away")

    def test_a_look_that_hangs_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(health, "ANSWER_SECONDS", 0.1)
        forever = threading.Event()
        probe = Probe(lambda: (forever.wait() and Health()) or Health())
        assert probe.health() == probe.health() == Health(unready="no answer within 0 s")
        forever.set()


SCRIPT = settings.CHECKOUT / "scripts" / "health.py"


class TestCommand:
    """`millrace health`, against a server that answers what a test wants."""

    @pytest.fixture
    def server(self) -> Iterator[HTTPServer]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = self.server.answers.get(self.path, (404, ""))  # type: ignore[attr-defined]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Handler) as running:
            thread = threading.Thread(target=running.serve_forever, daemon=True)
            thread.start()
            yield running
            running.shutdown()

    def ask(self, port: int, *arguments: str) -> tuple[int, str]:
        ports = {name: str(port) for name in ("MILLRACE_PORT", "MILLRACE_FEATURES_PORT", "MILLRACE_HEALTH_PORT")}
        done = subprocess.run(
            [sys.executable, "-I", "-S", SCRIPT, *arguments], env=ports, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def test_it_asks_each_component_in_its_way(self, server: HTTPServer) -> None:
        healthy = (200, '{"metadatabase": {"status": "healthy"}, "scheduler": {"status": null}}')
        server.answers = {
            "/api/v2/monitor/health": healthy,
            "/ready": (503, '{"reason": "starting"}'),
            "/live": (200, ""),
            "/health": (200, ""),
        }  # type: ignore[attr-defined]
        port = server.server_port
        assert self.ask(port, "api-server") == (0, "")
        assert self.ask(port, "features", "--live") == self.ask(port, "scheduler", "--live") == (0, "")
        assert self.ask(port, "features") == (1, 'features is not ready (503): {"reason": "starting"}\n')
        server.answers["/api/v2/monitor/health"] = (200, '{"metadatabase": {"status": "unhealthy"}}')  # type: ignore[attr-defined]
        assert self.ask(port, "api-server")[0] == 1

    def test_it_says_when_nobody_answers(self) -> None:
        assert self.ask(free_port(), "engine") == (1, "engine does not answer: [Errno 111] Connection refused\n")

    def test_it_knows_the_components(self) -> None:
        code, message = self.ask(1, "airflow")
        assert code == 2
        for name in (*components.COMMANDS, "features", "engine"):
            assert name in message
