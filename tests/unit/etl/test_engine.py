"""An engine that is not there, or not the right one, is told in a sentence and at once."""

import socket
import time
from pathlib import Path

import pytest

from etl import engine
from etl.engine import EngineError


@pytest.mark.parametrize("name", ["duckdb", "spark://host:7077", "sc://", "localhost:15002", "sc://:15002"])
def test_what_is_no_engine_is_refused_with_those_that_are(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MILLRACE_ENGINE", name)
    with pytest.raises(
        EngineError, match=r"^MILLRACE_ENGINE is .*\. Use `sail` \(the default, in-process\), `spark` .* or a Spark Connect URL such as sc://localhost:15002"
    ):
        engine.session()


@pytest.mark.parametrize("options", ["", "/;user_id=me;token=secret"])
def test_a_url_nobody_listens_on_is_told_at_once(home: Path, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("MILLRACE_ENGINE", f"sc://127.0.0.1:{port}{options}")
    began = time.monotonic()
    with pytest.raises(EngineError, match=rf"^no engine answers at 127\.0\.0\.1:{port}, which MILLRACE_ENGINE names\. Start") as caught:
        engine.session()
    assert time.monotonic() - began < 5
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("theirs", ["4.0.1", "3.5.6", "5.1.1"])
def test_a_server_of_another_version_is_refused(theirs: str) -> None:
    with pytest.raises(
        EngineError, match=rf"^the engine at sc://far:15002 is Spark {theirs}, and this Millrace speaks to Spark 4\.1\. Use a server of that version$"
    ):
        engine._refuse_other_version("sc://far:15002;token=secret", theirs)


def test_a_server_of_another_patch_is_taken() -> None:
    engine._refuse_other_version("sc://far:15002", "4.1.9")


def test_a_shared_spark_that_died_is_told_with_its_port(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from etl.spark import server

    port = server.free_port()
    server.record(os.getpid(), port)
    monkeypatch.setenv("MILLRACE_ENGINE", "spark")
    monkeypatch.setattr(engine, "_ports", [])
    assert server.running() is None
    assert engine.lost() == f"no engine answers at 127.0.0.1:{port} any more"


def test_an_engine_in_this_process_is_never_lost(home: Path) -> None:
    assert engine.lost() == ""


def test_a_record_of_another_process_is_no_server(home: Path) -> None:
    from etl.spark import server

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        server.record_path().parent.mkdir(parents=True)
        for text in (f'{{"pid": 1, "port": {port}, "started": 0.5}}', "{", "[]", ""):
            server.record_path().write_text(text)
            assert server.running() is None
