"""Airflow's keys come as files, and show nowhere: no list of processes, log, event, status or page of the
configuration.
"""

from pathlib import Path

import psutil
import pytest

from millrace import services
from millrace.services import ApiError, Services
from tests.projects import GROCERY

PROJECT = GROCERY


@pytest.fixture
def keys(running: tuple[Services, dict[str, str]]) -> list[bytes]:
    """What must not be seen."""
    named = {name: path for name, path in running[1].items() if name.endswith("_FILE")}
    assert len(named) == 3
    return [Path(path).read_bytes().strip() for path in named.values()]


def test_airflow_runs_by_keys_from_files_and_shows_them_nowhere(
    airflow: Services, e2e_home: Path, keys: list[bytes]
) -> None:
    record = services._read_record()
    assert record
    processes = services._processes(record)
    assert processes
    titles = [
        " ".join([process.name(), *process.cmdline()]).encode()
        for process in processes
        if psutil.pid_exists(process.pid)
    ]
    carried = [Path(f"/proc/{record.pid}/environ").read_bytes()]
    assert all(key in carried[0] for key in keys), "the keys in use are not those of the files"
    files = [
        path
        for name in ("logs", "lineage", "data_docs", "run")
        for path in (e2e_home / name).rglob("*")
        if path.is_file()
    ]
    assert files
    shown = [*titles, str(services.status()).encode(), *(path.read_bytes() for path in files)]
    assert not [text[:200] for text in shown if any(key in text for key in keys)]


def test_the_configuration_is_shown_to_nobody(airflow: Services) -> None:
    for path in ("/api/v2/config", "/api/v2/config/section/core/option/fernet_key"):
        with pytest.raises(ApiError) as refused:
            airflow.api("GET", path)
        assert refused.value.status == 403
