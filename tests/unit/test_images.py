"""The images and the compose file, as far as they can be judged without a Docker Engine; tests/compose runs them."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from lake import secret_files, settings
from millrace import foreground
from tests import gateway

DOCKER = settings.CHECKOUT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PASSED = ("redis_password",)
"""Secrets that only other secrets are made of."""
SCRIPTS = sorted((settings.CHECKOUT / "scripts").glob("*.sh")) + sorted(DOCKER.glob("*.sh"))
every_service = pytest.mark.parametrize("name", SERVICES)


def stages() -> dict[str, str]:
    """The name of each stage, with its text."""
    parts = re.split(r"^(?=FROM )", DOCKERFILE, flags=re.MULTILINE)[1:]
    return {re.findall(r"^FROM \S+ AS (\S+)", part)[0]: part for part in parts}


def targets() -> list[str]:
    """What scripts/images.sh builds unless it is told otherwise."""
    result = re.search(r"targets=\(([a-z0-9 ]+)\)", (settings.CHECKOUT / "scripts" / "images.sh").read_text())
    assert result
    return result[1].split()


def variables(service: dict[str, Any]) -> dict[str, str]:
    return dict(service.get("environment") or {})


def test_each_image_that_compose_names_is_built() -> None:
    named = {re.findall(r"millrace/([a-z0-9]+):latest", service["image"])[0] for service in SERVICES.values()}
    assert named == {*targets()} <= {*stages()}


@pytest.mark.parametrize("target", targets())
def test_an_image_runs_as_a_user_without_rights(target: str) -> None:
    assert re.findall(r"^USER (\S+)", stages()[target], re.MULTILINE)[-1] not in ("root", "0", "0:0")


@pytest.mark.parametrize("target", ["engine", "features", "pipeline"])
def test_an_image_holds_its_lock_and_no_other(target: str) -> None:
    text = stages()[f"{target}-packages"]
    assert re.findall(r"requirements/(\S+)", text) == [f"{target}.txt"]
    assert f"COPY --from={target}-packages /opt/venv /opt/venv" in stages()[target]


def test_the_gateway_is_the_one_of_the_tests() -> None:
    assert re.findall(r"^ARG VERSITYGW=(\S+)", DOCKERFILE, re.MULTILINE) == [gateway.VERSION]


def test_what_is_copied_is_in_the_build_context() -> None:
    ignored = (settings.CHECKOUT / ".dockerignore").read_text().splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE):
        for source in [word for word in line.split()[:-1] if not word.startswith("--")]:
            assert (settings.CHECKOUT / source).exists(), source
            assert any(source == path or source.startswith(f"{path}/") for path in allowed), source


@every_service
def test_a_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in service
    assert all("127.0.0.1" in port for port in service.get("ports", []))


@every_service
def test_no_secret_is_a_variable_or_an_argument(name: str) -> None:
    service = SERVICES[name]
    known = {f"{secret}_FILE" for secret in secret_files.NAMES} | {
        "MILLRACE_FEATURES_TOKEN_FILE",
        "POSTGRES_PASSWORD_FILE",
        "S3_ACCESS_KEY_FILE",
        "S3_SECRET_KEY_FILE",
    }
    for variable, value in variables(service).items():
        if variable.endswith("_FILE"):
            assert variable in known
            assert value.removeprefix("/run/secrets/") in service["secrets"]
        else:
            assert not re.search(r"PASSWORD|SECRET|TOKEN|KEY", variable), variable


@every_service
def test_a_service_gets_the_secrets_that_it_reads_and_no_others(name: str) -> None:
    service = SERVICES[name]
    read = {
        value.removeprefix("/run/secrets/")
        for variable, value in variables(service).items()
        if variable.endswith("_FILE")
    }
    if name == "redis":
        read |= {"redis_conf"}
    if name == "postgres":  # whose init script reads the others
        read |= set(re.findall(r"role \w+ (\w+)", (DOCKER / "postgres-init.sh").read_text()))
    assert set(service.get("secrets", [])) == read


def test_each_component_runs() -> None:
    started = {service["command"][1] for service in SERVICES.values() if service.get("command", [""])[0] == "start"}
    # the images of these start nothing else, and the broker is for demos on one machine
    assert started | {"engine", "features", "broker"} == {*foreground.NAMES}


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home") / "secrets"
    make(folder)
    return folder


def make(folder: Path) -> None:
    environment = {**os.environ, "MILLRACE_SECRETS": str(folder)}
    done = subprocess.run(
        ["bash", "scripts/compose.sh", "secrets"],
        cwd=settings.CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_each_secret_that_compose_names_is_made(secrets: Path) -> None:
    named = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert {path.name for path in secrets.iterdir()} == named | {*PASSED}
    assert all(path.read_text().strip() for path in secrets.iterdir())


def test_only_the_owner_gets_at_the_secrets(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700


def test_secrets_are_kept(secrets: Path) -> None:
    before = {path.name: path.read_text() for path in secrets.iterdir()}
    (secrets / "fernet_key").unlink()
    make(secrets)
    after = {path.name: path.read_text() for path in secrets.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"fernet_key"}


def test_secrets_differ_between_stacks(secrets: Path, tmp_path: Path) -> None:
    make(tmp_path / "other")
    same = {path.name for path in secrets.iterdir() if path.read_text() == (tmp_path / "other" / path.name).read_text()}
    assert same == set()


def test_airflow_takes_the_fernet_key(secrets: Path) -> None:
    from cryptography.fernet import Fernet

    Fernet(secrets.joinpath("fernet_key").read_bytes())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_shell(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)
