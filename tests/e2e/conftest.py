"""Airflow, started once for all end-to-end tests, with a home and ports of its own."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_urlsafe

import pytest
from cryptography.fernet import Fernet

from millrace import services
from millrace.services import Services


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def surroundings(variables: dict[str, str]) -> Iterator[None]:
    """These variables, and nothing else that is said to us or to Airflow."""
    with pytest.MonkeyPatch.context() as environment:  # other variables stay: PySpark keeps its mode in one
        for name in [name for name in os.environ if name.startswith(("MILLRACE_", "AIRFLOW", "OPENLINEAGE_"))]:
            environment.delenv(name)
        for name, value in variables.items():
            environment.setenv(name, value)
        yield


def secrets_as_files(folder: Path) -> dict[str, str]:
    """Airflow's keys, each in a file that a variable names."""
    keys = {
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "AIRFLOW__API_AUTH__JWT_SECRET": token_urlsafe(48),
        "AIRFLOW__API__SECRET_KEY": token_urlsafe(48),
    }
    for name, key in keys.items():
        (folder / name).write_text(key + "\n")
        (folder / name).chmod(0o600)
    return {f"{name}_FILE": str(folder / name) for name in keys}


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, dict[str, str]]]:
    """Running services, and the variables that lead to them; ended afterwards, whatever happened."""
    variables = {
        "MILLRACE_HOME": str(tmp_path_factory.mktemp("e2e")),
        "MILLRACE_PORT": str(free_port()),
        "MILLRACE_FEATURES_PORT": str(free_port()),
        **secrets_as_files(tmp_path_factory.mktemp("secrets")),
    }
    try:
        with surroundings(variables):
            up = services.up()
        yield up, variables
    finally:
        with surroundings(variables):
            services.down()


@pytest.fixture(scope="module")
def airflow(running: tuple[Services, dict[str, str]]) -> Iterator[Services]:
    """The services, with this process in their surroundings for as long as a module's tests run."""
    with surroundings(running[1]):
        yield running[0]


@pytest.fixture
def e2e_home(airflow: Services) -> Path:
    """The home of the running services."""
    return Path(os.environ["MILLRACE_HOME"])
