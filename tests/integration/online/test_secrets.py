"""The password of the online store comes as a file, and shows nowhere, whether it is right or wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from etl.spark.server import free_port
from features.online import materialize
from lake import release, settings
from tests import patience
from tests.integration.online.conftest import started
from tests.servers import Postgres, Server
from tests.unit.features.conftest import Lake

RIGHT, WRONG = "opensesame", "opentahini"


def answer(port: int, path: str) -> str:
    """What the feature server says; empty while it does not answer."""
    import urllib.error
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


def written(home: Path, password: str, server: Server) -> dict[str, str]:
    """The environment that names a file with the URL."""
    path = home.parent / f"{home.name}-{password}"
    path.write_text(server.url.replace(RIGHT, password) + "\n")
    path.chmod(0o600)
    port = str(free_port())
    return {**os.environ, "MILLRACE_ONLINE_FILE": str(path), "MILLRACE_FEATURES_PORT": port}


def test_a_feature_server_shows_no_password(
    running: dict[str, Server], cinema: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = started(running, "postgresql")
    assert isinstance(server, Postgres)
    with monkeypatch.context() as patch:
        patch.setenv("MILLRACE_ONLINE", server.url)
        materialize.materialize(release.read())
    environment, home = written(settings.home(), RIGHT, server), settings.home()
    port = int(environment["MILLRACE_FEATURES_PORT"])
    command = [sys.executable, "-W", "ignore", "-m", "features.serving"]
    with (home / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=settings.CHECKOUT, env=environment, stdout=output, stderr=output)
        try:
            patience.until(lambda: process.poll() is not None or answer(port, "/health"), "the server does not answer")
            said = [answer(port, path) for path in ("/ready", "/metrics")]
            title = " ".join(psutil.Process(process.pid).cmdline())
        finally:
            process.terminate()
            process.wait(patience.SECONDS)
    assert '"release"' in said[0], (said, (home / "output").read_text())
    files = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    shown = [*(text.encode() for text in (*said, title)), *files]
    assert not [text[:300] for text in shown if RIGHT.encode() in text]


def test_the_command_line_shows_no_wrong_password(running: dict[str, Server], cinema: Lake) -> None:
    server, home = started(running, "postgresql"), settings.home()
    command = [sys.executable, "-W", "ignore", "-m", "millrace", "serve"]
    environment = written(home, WRONG, server)
    done = subprocess.run(command, cwd=settings.CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "password authentication failed" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    files = [path.read_text(errors="replace") for path in home.rglob("*") if path.is_file()]
    assert not [text[:300] for text in (done.stdout, done.stderr, *files) if WRONG in text]
