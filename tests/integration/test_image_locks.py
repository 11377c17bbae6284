"""What an image's lock holds is enough for what the image is for: its program runs where nothing else can be
imported.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from etl.spark.server import free_port, listens
from features import registry
from features.online import materialize
from lake import release, settings
from tests import patience
from tests.servers import Postgres, Redis, Server
from tests.unit.features.conftest import Lake, fill
from tests.unit.test_requirements import INPUTS, pinned

REQUEST = {"features": ["guest_activity:paid_7d", "guest_profile:age_band"], "entities": {"guest_id": [1, 2]}}


def link(source: str, target: str) -> None:
    """A second name of a file of .venv; a copy where the temporary folder is on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image has to import from: the packages of features.txt without what slim.sh deletes, and no others."""
    folder = tmp_path_factory.mktemp("packages")
    for name in pinned(INPUTS / "features.txt"):
        try:
            files = distribution(name).files or []
        except PackageNotFoundError:  # one for another system or another Python
            continue
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            source, target = str(distribution(name).locate_file(top)), folder / top
            if Path(source).is_dir():
                shutil.copytree(source, target, copy_function=link, dirs_exist_ok=True)
            else:
                link(source, str(target))
    subprocess.run([settings.CHECKOUT / "docker" / "slim.sh", folder], check=True)
    assert not (folder / "feast" / "ui").exists()
    return folder


@pytest.fixture(params=[Redis, Postgres], ids=["redis", "postgresql"])
def online(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = request.param()
    server.start()
    yield server
    server.remove()


def get(port: int, path: str, body: Any = None) -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=patience.SECONDS) as response:
        return response.read().decode()


def test_the_feature_server_runs_on_the_packages_of_its_image(
    online: Server, packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MILLRACE_LAKE", "MILLRACE_RELEASE", "MILLRACE_ENGINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    monkeypatch.setenv("MILLRACE_ONLINE", online.url)
    fill(Lake())
    registry.apply()
    materialize.materialize(release.read())

    port, log = free_port(), tmp_path / "server.log"
    environment = {**os.environ, "PYTHONPATH": f"{packages}:{settings.CHECKOUT}", "MILLRACE_FEATURES_PORT": str(port)}
    with log.open("wb") as output:
        command = [sys.executable, "-S", "-W", "ignore", "-m", "features.serving"]
        process = subprocess.Popen(command, cwd=settings.CHECKOUT, env=environment, stdout=output, stderr=output)
    try:
        patience.until(lambda: process.poll() is not None or listens(port), "the feature server does not start")
        assert process.poll() is None, log.read_text()
        assert json.loads(get(port, "/ready"))
        answer = json.loads(get(port, "/get-online-features", REQUEST))
        assert answer["metadata"]["feature_names"] == ["guest_id", "paid_7d", "age_band"]
        assert [result["values"] for result in answer["results"]] == [[1, 2], [0.05, 7.77], ["25-34", None]]
        assert "millrace_" in get(port, "/metrics")
    finally:
        process.terminate()
        process.wait(timeout=patience.SECONDS)
