"""An engine that is not there, or not the right one, is told in a sentence and at once."""

import socket
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from pyspark.sql import functions as F
from pyspark.sql.connect.proto import base_pb2, base_pb2_grpc

from etl import engine
from etl.engine import EngineError
from etl.spark import keep_alive
from tests import cinema


@pytest.mark.parametrize(
    "name",
    [
        "duckdb",
        "spark://host:7077",
        "sc://",
        "localhost:15002",
        "sc://:15002",
        "http://u:secret@h",
        "sc://;token=secret",
    ],
)
def test_what_is_no_engine_is_refused_with_those_that_are(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("MILLRACE_ENGINE", name)
    with pytest.raises(
        EngineError,
        match=(
            r"^MILLRACE_ENGINE is .*\. Use `sail` \(the default, in-process\), `spark` .* or a Spark Connect URL such"
            r" as sc://localhost:15002"
        ),
    ) as raised:
        engine.session()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("options", ["", "/;user_id=me;token=secret"])
def test_a_url_nobody_listens_on_is_reported_at_once(home: Path, monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("MILLRACE_ENGINE", f"sc://127.0.0.1:{port}{options}")
    monkeypatch.setattr(
        "pyspark.sql.connect.client.SparkConnectClient.__init__",
        lambda *_, **__: pytest.fail("a client was made, which tries again and again"),
    )
    with pytest.raises(
        EngineError, match=rf"^no engine answers at 127\.0\.0\.1:{port}, which MILLRACE_ENGINE names\. Start"
    ) as caught:
        engine.session()
    assert "secret" not in str(caught.value)


class Answering(base_pb2_grpc.SparkConnectServiceServicer):
    """A server that speaks the protocol as far as its version. Any other question is one it does not know, as an older
    server says of a newer client's.
    """

    def __init__(self, version: str) -> None:
        self.version = version

    def AnalyzePlan(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.WhichOneof("analyze") != "spark_version":
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "not known")
        message = base_pb2.AnalyzePlanResponse.SparkVersion(version=self.version)
        return base_pb2.AnalyzePlanResponse(
            session_id=request.session_id, server_side_session_id="here", spark_version=message
        )

    def ReleaseSession(self, request: Any, _context: Any) -> Any:  # noqa: N802
        return base_pb2.ReleaseSessionResponse(session_id=request.session_id, server_side_session_id="here")

    def Config(self, request: Any, _context: Any) -> Any:  # noqa: N802
        return base_pb2.ConfigResponse(session_id=request.session_id, server_side_session_id="here")


@contextmanager
def serving(service: Any | None) -> Iterator[str]:
    """A real gRPC server on loopback; its URL."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    if service:
        base_pb2_grpc.add_SparkConnectServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"sc://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("theirs", ["4.0.1", "3.5.6", "5.1.1", "4.2.0-SNAPSHOT"])
def test_a_server_of_another_version_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, theirs: str) -> None:
    with serving(Answering(theirs)) as url:
        monkeypatch.setenv("MILLRACE_ENGINE", f"{url}/;user_id=me;x-secret=secret")
        with pytest.raises(EngineError) as caught:
            engine.session()
    assert (
        str(caught.value)
        == f"the engine at {url}/ is Spark {theirs}, and this Millrace speaks to Spark 4.1 (its client is 4.1.1)."
        " Start a Connect server of Spark 4.1 there, or point MILLRACE_ENGINE at one"
    )


def test_a_server_of_another_patch_is_taken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Answering("4.1.9")) as url:
        monkeypatch.setenv("MILLRACE_ENGINE", url)
        try:
            assert engine.session().version == "4.1.9"
            assert engine.describe() == ("spark", "4.1.9")
        finally:
            engine.session().stop()


def test_garbage_collection_closes_no_session(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in any thread, under any lock, and closing waits for other threads."""
    with serving(Answering("4.1.9")) as url:
        monkeypatch.setenv("MILLRACE_ENGINE", url)
        spark = engine.session()
        spark.__del__()
        assert not spark.client.is_closed
        spark.stop()
        assert spark.client.is_closed


def test_a_server_of_something_else_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(None) as url:
        monkeypatch.setenv("MILLRACE_ENGINE", f"{url}/;x-secret=secret")
        with pytest.raises(
            EngineError,
            match=rf"^what listens at {url}/ did not answer as a Spark Connect server does \(.*\)\. See that it is one",
        ) as caught:
            engine.session()
    assert "secret" not in str(caught.value)


def test_a_shared_spark_that_died_is_reported_with_its_port(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    from etl.spark import server

    port = server.free_port()
    server.record(os.getpid(), port)
    monkeypatch.setenv("MILLRACE_ENGINE", "spark")
    monkeypatch.setattr(engine, "_ports", [])
    assert server.running() is None
    assert engine.lost() == f"no engine answers at 127.0.0.1:{port} any more"


def test_an_engine_that_ended_and_was_started_again_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what a client says of it: it answers again by the time that somebody asks."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setenv("MILLRACE_ENGINE", f"sc://127.0.0.1:{port}")
        for message in (
            "status = StatusCode.UNAVAILABLE, details = Socket closed",
            "[INVALID_HANDLE.SESSION_NOT_FOUND]",
            "session 8e0 is not running",
            "invalid argument: operation not found: 3e39627f",
        ):
            assert (
                engine.lost(message) == f"the engine at 127.0.0.1:{port} ended while it worked, and was started again"
            )
        assert engine.lost("[DIVIDE_BY_ZERO]") == ""


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


# --- a session that idles


@pytest.fixture
def own_sail(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Sail for this test alone, which forgets sessions after 3 s, and which no other test gets."""
    monkeypatch.setenv("SAIL_SPARK__SESSION_TIMEOUT_SECS", "3")
    engine._session.cache_clear()
    yield
    engine._session.cache_clear()


def release(spark: Any) -> None:
    """Have the server forget the session, as after its timeout."""
    spark.client.release_session()
    with pytest.raises(Exception, match="is not running"):
        spark.range(1).count()


def test_a_session_that_idles_longer_than_the_timeout_goes_on(own_sail: None) -> None:
    """`lit` of an instant asks the server for its time zone. Without requests the session would be gone after half of
    the sleep.
    """
    spark = engine.session()
    before = spark.range(5)
    time.sleep(6)
    engine.session()
    F.lit(datetime.now(UTC))
    assert before.count() == spark.createDataFrame([(1,)] * 5, "a int").count() == 5


def test_a_forgotten_session_is_renewed_with_its_settings_and_its_frames(
    own_sail: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep_alive, "period", lambda: 10_000.0)
    spark = engine.session()
    frame = spark.createDataFrame([(1,), (2,)], "a int").where("a > 1")
    release(spark)
    monkeypatch.setattr(keep_alive._kept[spark], "seen", 0.0)  # as after hours of sleep
    assert engine.session() is spark
    assert frame.collect() == [(2,)]
    assert {name: spark.conf.get(name) for name in engine.OPTIONS} == engine.OPTIONS


def test_a_forgotten_session_is_renewed_while_nobody_asks(own_sail: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_alive, "period", lambda: 0.5)
    spark = engine.session()
    forgotten = spark.session_id
    spark.client.release_session()
    while spark.session_id == forgotten:
        time.sleep(0.05)
    while keep_alive._kept[spark].lock.locked():
        time.sleep(0.05)
    assert spark.range(3).count() == 3


def test_a_stopped_session_is_replaced(own_sail: None) -> None:
    spark = engine.session()
    spark.stop()
    assert engine.session() is not spark
    assert engine.session().range(3).count() == 3


def test_an_engine_that_ended_in_an_audit_is_no_fault_of_a_check(own_sail: None) -> None:
    """An AuditError is final, and this is worth another try."""
    from dataclasses import replace

    from expectations.evaluate import AuditError, measure

    spark = engine.session()
    table = cinema.table("silver.showcases")
    table = replace(table, columns=table.columns[:3], key=(), time_column=None, references=())
    frame = spark.createDataFrame(
        [(1, 2, 3)], ", ".join(f"{column.name} {column.type.spark}" for column in table.columns)
    )
    assert measure(table, frame).rows == 1
    spark.stop()
    with pytest.raises(Exception) as caught:  # noqa: PT011 (whatever the client says)
        measure(table, frame)
    assert not isinstance(caught.value, AuditError)


class Counting(Answering):
    """Counts the requests that keep a session."""

    requests = 0

    def Config(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.requests += request.operation.WhichOneof("op_type") == "get"
        return super().Config(request, context)


def test_a_server_elsewhere_is_asked_now_and_then(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_alive, "period", lambda: 0.1)
    counting = Counting("4.1.1")
    with serving(counting) as url:
        monkeypatch.setenv("MILLRACE_ENGINE", url)
        spark = engine.session()
        while counting.requests < 3:
            time.sleep(0.05)
        spark.stop()


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(None, 30.0), ("10", 2.0), ("900", 30.0), ("0.1", 0.1), ("", 30.0), ("x", 30.0)]
)
def test_sail_is_asked_several_times_within_its_timeout(
    monkeypatch: pytest.MonkeyPatch, timeout: str | None, seconds: float
) -> None:
    monkeypatch.delenv(keep_alive.SAIL_TIMEOUT, raising=False)
    if timeout is not None:
        monkeypatch.setenv(keep_alive.SAIL_TIMEOUT, timeout)
    assert keep_alive.period() == seconds
