"""Airflow, started once for all end-to-end tests, with a home and a port of its own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dags import services
from dags.services import Services


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Running services; ended afterwards, whatever happened."""
    home = tmp_path_factory.mktemp("e2e")
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("MILLRACE_", "AIRFLOW", "OPENLINEAGE_"))]:
        del os.environ[name]
    os.environ.update(MILLRACE_HOME=str(home), MILLRACE_PORT=str(free_port()), MILLRACE_FEATURES_PORT=str(free_port()))
    try:
        yield services.up()
    finally:
        services.down()
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def e2e_home(airflow: Services) -> Path:
    """The home of the running services."""
    return Path(os.environ["MILLRACE_HOME"])
