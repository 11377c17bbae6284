"""Every environment variable is declared once, checked, and on the page docs/settings.md."""

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts import project
from lake import secret_files, settings, variables
from lake.settings import SettingError
from millrace import cli, demo, services

NAME = re.compile(r"(?<![A-Z_])MILLRACE_[A-Z0-9_]*[A-Z0-9]\b(?!_?[{*])")
LINK = re.compile(r"\]\(([^)]+)\)")
CODE = ("*.py", "*.sh", "*.yaml", "*.yml", "Makefile", "Dockerfile", ".ci/*", "scripts/*")
NO_VARIABLES = {"MILLRACE_ADMIN", "MILLRACE_LAEK", "MILLRACE_SOURCE_", "MILLRACE_SOURCE_SHOP"}
"""A prefix of two variables; a misspelling that is an example; a prefix and an example of databases."""


@pytest.fixture(autouse=True)
def _environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MILLRACE_") and name != "MILLRACE_HOME"]:
        monkeypatch.delenv(name)


def test_the_page_is_that_of_the_list() -> None:
    page = (settings.CHECKOUT / "docs" / "settings.md").read_text()
    assert page == variables.page(page), "Run: .venv/bin/python -m lake.variables docs/settings.md"
    for name, variable in variables.all_variables().items():
        assert (f"| `{name}` |" in page) is not variable.is_internal


def test_links_of_the_page_lead_somewhere() -> None:
    links = [link for variable in variables.all_variables().values() for link in LINK.findall(variable.description)]
    assert len(links) > 10
    for link in links:
        path, _, anchor = link.partition("#")
        headings = re.findall(r"^#+ (.+)$", (settings.CHECKOUT / "docs" / (path or "settings.md")).read_text(), re.M)
        anchors = {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in anchors, link


def test_what_code_reads_is_declared() -> None:
    command = ["git", "ls-files", "--", *CODE, ":!tests", ":!examples/*/tests"]
    files = subprocess.run(command, cwd=settings.CHECKOUT, capture_output=True, text=True, check=True).stdout.split()
    assert len(files) > 200
    known = {*variables.all_variables(), *(name + "_FILE" for name in secret_files.NAMES), *NO_VARIABLES}
    read = {name: path for path in files for name in NAME.findall((settings.CHECKOUT / path).read_text())}
    assert {name: path for name, path in read.items() if name not in known} == {}


def test_every_variable_is_described_and_used_somewhere() -> None:
    command = ["git", "grep", "-hoE", "MILLRACE_[A-Z0-9_]+", "--", ":!lake/variables.py", ":!docs/settings.md"]
    used = {*subprocess.run(command, cwd=settings.CHECKOUT, capture_output=True, text=True, check=True).stdout.split()}
    for name, variable in variables.all_variables().items():
        assert variable.description, name
        assert name in used, f"{name} is declared, and nothing reads it"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("MILLRACE_PORT", "http", "MILLRACE_PORT is 'http'. Set it to a port from 1 to 65535, or unset it for the "),
        ("MILLRACE_PORT", "65536", "MILLRACE_PORT is '65536'"),
        ("MILLRACE_HEALTH_PORT", "0", "MILLRACE_HEALTH_PORT is '0'"),
        ("MILLRACE_SPARK_MEMORY", "lots", "Set it to a size such as 4g or 1500m"),
        ("MILLRACE_SPARK_CONF", "a=1,b", "Set it to key=value pairs, separated by commas, or unset it"),
        ("MILLRACE_SPARK_PROFILE", "tpu", "Set it to cpu or gpu, or unset it for the default: cpu"),
        ("MILLRACE_SCHEDULE", "yes", "Set it to on or off"),
        ("MILLRACE_RELEASE", "newest", "Set it to the number of a release, such as 3"),
        ("MILLRACE_PUBLIC_URL", "airflow.example", "Set it to a URL such as http://api-server:8080"),
        ("MILLRACE_FEATURES_WORKERS", "257", "Set it to a number from 1 to 256, or auto"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused(name: str, text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        settings.parse(name, text)
    monkeypatch.setenv(name, text)
    (problem,) = variables.problems()
    assert message in problem


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(
            (name, text)
            for name in ("LAKE", "LANDING")
            for text in ("gs://b/x", "http://b/x", "s3://b", "s3://k:p@b/x")
        ),
        ("TASK_LOGS", "s3a://b/x"),
        *(
            ("ONLINE", text)
            for text in ("redis://", "redis:u:p@h", "redis:///0", "unix://", "postgresql:", "mysql://h/d")
        ),
        *((name, text) for name in ("REGISTRY", "DATABASE") for text in ("postgresql:", "postgresql://", "redis://h")),
        *(("ENGINE", text) for text in ("sc:/x;token=..", "sc://", "sc://:15002", "sqlite")),
        *(("API_URL", text) for text in ("http://", "http://h:65536", "http://:80", "http://[h")),
    ],
)
def test_a_setting_that_names_nothing_is_refused(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MILLRACE_{name}", text)
    (problem,) = variables.problems()
    assert problem.startswith(f"MILLRACE_{name} is ")
    assert cli.main(["check"]) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *((name, text) for name in ("LAKE", "LANDING") for text in ("s3://b/x", "s3a://b/x/y", "/srv/lake", "lake")),
        *(("ONLINE", text) for text in ("sqlite", "redis://h", "rediss://:p@h:1/0", "unix:///run/redis.sock")),
        *((name, text) for name in ("ONLINE", "REGISTRY", "DATABASE") for text in (
            "postgresql:///db", "postgresql://?host=/run/postgresql", "postgresql://u@/db", "postgres://a:1,b:2/db",
        )),
        *(("ENGINE", text) for text in ("spark", "sc://h", "sc://h:15002/;token=x", "sc://[::1]:1")),
        *(("API_URL", text) for text in ("http://u:p@h:80/x", "https://[::1]:8080")),
    ],
)  # fmt: skip
def test_a_setting_that_names_something_is_accepted(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MILLRACE_{name}", text)
    assert variables.problems() == []


@pytest.mark.parametrize("name", sorted(name for name in secret_files.NAMES if name.startswith("MILLRACE_")))
def test_no_secret_is_shown(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    variable = variables.all_variables()[name]
    assert variable.is_secret
    for text in ("opensesame", "mysql://me:opensesame@host/x", "redis://:open/sesame@host"):
        assert "sesame" not in variable.shown(text)
        assert "sesame" not in variable.error(text)
    monkeypatch.setenv(name, "postgresql://me:opensesame@host/x")
    assert "sesame" not in "".join(variables.problems())
    assert cli.main(["settings"]) == 0
    assert "sesame" not in (out := capsys.readouterr().out)
    shown = r"postgresql://\*\*\*" if name.endswith(("ONLINE", "REGISTRY", "DATABASE")) else r"\*\*\*"
    assert re.search(rf"{name} +{shown} .* environment", out)


def test_typed_values_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (settings.airflow_port(), settings.spark_conf(), settings.release()) == (8080, {}, None)
    for name, text in (("PORT", "8090"), ("SPARK_CONF", " a=1, b=x=y"), ("RELEASE", "3"), ("BIND", "::1")):
        monkeypatch.setenv(f"MILLRACE_{name}", text)
    assert (settings.airflow_port(), settings.features_port()) == (8090, 8091)
    assert settings.spark_conf() == {"a": "1", "b": "x=y"}
    assert (settings.release(), settings.bind()) == (3, "::1")
    monkeypatch.setenv("MILLRACE_PORT", "")
    assert settings.airflow_port() == 8080


def test_a_setting_of_kafka_clients_with_a_comma_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_KAFKA_CONF", "security.protocol=SSL, client.rack=a")
    assert settings.kafka_conf() == {"security.protocol": "SSL", "client.rack": "a"}
    monkeypatch.setenv("MILLRACE_KAFKA_CONF", "sasl.password=a,b=c\n\n client.rack=a\n")
    assert settings.kafka_conf() == {"sasl.password": "a,b=c", "client.rack": "a"}


def test_the_defaults_of_the_accessors_are_those_of_the_list() -> None:
    values = {
        "PORT": settings.airflow_port(),
        "ENGINE_PORT": settings.engine_port(),
        "HEALTH_PORT": settings.health_port(),
        "START_SECONDS": settings.start_seconds(),
        "STOP_SECONDS": settings.stop_seconds(),
        "BIND": settings.bind(),
        "AUTH": settings.auth(),
        "ENGINE": settings.engine(),
        "ONLINE": settings.online(),
        "JOIN": settings.join(),
        "BEYOND_HORIZON": settings.beyond_horizon(),
        "SPARK_MASTER": settings.spark_master(),
        "SPARK_PROFILE": settings.spark_profile(),
    }
    listed = variables.all_variables()
    assert {name: listed[f"MILLRACE_{name}"].default for name in values} == {
        name: f"`{value}`" for name, value in values.items()
    }
    for variable in listed.values():  # and a default that is a constant is a value which may be set
        if (constant := re.fullmatch("`([^`]+)`", variable.default)) and variable.info.annotation != Path:
            variable.parse(constant[1].replace("$MILLRACE_PORT", "8080"))


def test_the_health_check_has_the_same_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    target = runpy.run_path(str(settings.CHECKOUT / "scripts" / "health.py"))["_target"]
    for airflow in ("", "8090", "65535"):
        monkeypatch.setenv("MILLRACE_PORT", airflow)
        ports = [target(component, False)[0] for component in ("api-server", "features", "engine")]
        assert ports == [settings.airflow_port(), settings.features_port(), settings.health_port()]


def test_a_misspelled_variable_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_LAEK", "/lake")
    monkeypatch.setenv("MILLRACE_HOME_FILE", "/home")
    monkeypatch.setenv("MILLRACE_DATABSE_FILE", "/database")
    monkeypatch.setenv("MILLRACE_XYZ", "1")
    monkeypatch.setenv("MILLRACE_ONLINE_FILE", "/run/secrets/online")
    assert [*variables.unknown().values()] == [
        "MILLRACE_DATABSE_FILE is not a setting of Millrace. Did you mean MILLRACE_DATABASE_FILE?",
        "MILLRACE_HOME_FILE is not a setting of Millrace. Did you mean MILLRACE_HOME?",
        "MILLRACE_LAEK is not a setting of Millrace. Did you mean MILLRACE_LAKE?",
        "MILLRACE_XYZ is not a setting of Millrace. `millrace settings` lists those that it knows",
    ]


def test_check_warns_and_refuses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MILLRACE_LAEK", "/lake")
    monkeypatch.setenv("MILLRACE_PORT", "http")
    assert cli.main(["check"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Warning: MILLRACE_LAEK is not a setting of Millrace. Did you mean MILLRACE_LAKE?\n")
    assert "\nSettingError: MILLRACE_PORT is 'http'. Set it to a port" in err


def test_a_run_warns_and_refuses(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MILLRACE_LAEK", "/lake")
    monkeypatch.setenv("MILLRACE_JOIN", "polars")
    monkeypatch.setenv("MILLRACE_PORT", "http")  # nothing that a run reads
    assert cli.main(["run", "--start", "2017-01-01", "--end", "2017-01-02"]) == 1
    assert re.fullmatch(
        r"Warning: MILLRACE_LAEK .*\nSettingError: MILLRACE_JOIN is 'polars'.*\n", capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("main", "arguments", "started"),
    [
        (cli.main, ["serve"], "millrace.pipeline.serve"),
        (cli.main, ["start", "scheduler"], "millrace.foreground.start"),
        (services.main, ["up"], "millrace.services.up"),
        (demo.main, [], "millrace.demo._demo"),
    ],
)
def test_whatever_starts_something_warns_once(
    main: Callable[[list[str]], int],
    arguments: list[str],
    started: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise SettingError("started")

    monkeypatch.setenv("MILLRACE_LAEK", "/lake")
    monkeypatch.setattr(started, fail)
    assert main(arguments) == 1
    output = capsys.readouterr()
    assert output.err.count("MILLRACE_LAEK is not a setting of Millrace. Did you mean MILLRACE_LAKE?") == 1
    assert "started" in output.out + output.err


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    """What `millrace settings --json` prints, by name."""
    assert cli.main(["settings", "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_unset_settings_have_the_value_that_counts(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_PORT", "8230")
    monkeypatch.setenv("MILLRACE_BIND", "::")
    values = {name.removeprefix("MILLRACE_"): row["value"] for name, row in rows(capsys).items()}
    assert (values["FEATURES_PORT"], values["API_URL"]) == ("8231", "http://[::1]:8230")
    assert (values["LAKE"], values["TASK_LOGS"]) == (str(home / "lake"), str(home / "logs" / "tasks"))
    assert (values["PROJECT"], values["ENGINE"]) == (str(project.current().root), "sail")
    assert (values["REGISTRY"], values["ADMIN_PASSWORD"]) == ("", "")
    monkeypatch.setenv("MILLRACE_PORT", "http")
    monkeypatch.setenv("MILLRACE_PROJECT", "/nowhere")
    listed = rows(capsys)
    assert listed["MILLRACE_FEATURES_PORT"]["value"] == ""
    assert listed["MILLRACE_PORT"]["problem"].startswith("MILLRACE_PORT is 'http'. Set it to a port")


def test_the_list_has_unknown_variables_and_marks_wrong_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_PASWORD", "opensesame")
    monkeypatch.setenv("MILLRACE_PORT", "http")
    assert rows(capsys)["MILLRACE_PASWORD"]["problem"].startswith("MILLRACE_PASWORD is not a setting of Millrace.")
    assert cli.main(["settings"]) == 0
    out = capsys.readouterr().out
    assert "opensesame" not in out
    assert re.search(r"^ *MILLRACE_PORT +http \(wrong\) +8080 +environment", out, re.M)
    assert re.search(r"^ *MILLRACE_PASWORD +\*\*\* +environment", out, re.M)
    assert "\nMILLRACE_PORT is 'http'. Set it to a port" in out


@pytest.mark.parametrize("name", ["[/x]", "x[bold]"])
def test_square_brackets_of_a_value_are_text(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / name))
    assert cli.main(["settings"]) == 0
    assert f" {tmp_path / name} " in capsys.readouterr().out


def test_a_value_from_a_file_is_traced_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "url").write_text("redis://:opensesame@host/0\n")
    monkeypatch.setenv("MILLRACE_ONLINE", "")
    monkeypatch.setenv("MILLRACE_ONLINE_FILE", str(file))
    monkeypatch.setattr(secret_files, "files", {})
    assert cli.main(["settings", "--json"]) == 0
    assert f'"source": "{file}"' in (out := capsys.readouterr().out)
    assert "sesame" not in out


def test_reading_imports_no_pydantic_until_something_is_to_be_checked() -> None:
    """Its import takes longer than all that a DAG file or `millrace --help` does."""
    code = (
        "import sys\nfrom lake import settings\nsettings.home(), settings.lake(), settings.airflow_port(),"
        " settings.is_scheduled()\nassert 'pydantic' not in sys.modules"
    )
    variables_left = {name: value for name, value in os.environ.items() if not name.startswith("MILLRACE_")}
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=settings.CHECKOUT,
        check=True,
        env={**variables_left, "MILLRACE_HOME": "/tmp/x", "MILLRACE_LAKE": "/tmp/y"},
    )
