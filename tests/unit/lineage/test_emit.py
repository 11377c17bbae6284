"""Events arrive: one whole line each, or at the server, and never at the price of a run."""

import json
import logging
import multiprocessing
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from openlineage.client import OpenLineageClient

from contracts import catalog
from lineage import emit, events
from tests import recorded_events


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(emit, "_retry_at", {})


@pytest.fixture
def event():
    return events.table_started(events.table_step(catalog.table("gold.guest_activity")))


class Server:
    """Keeps what it is sent; answers with `status`, after `delay` seconds."""

    def __init__(self, status=201, delay=0.0):
        self.received = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.received.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                time.sleep(delay)
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def test_an_event_is_one_line(event, home):
    emit.emit(event)
    emit.emit(event)

    lines = emit.path_of().read_text().splitlines()
    assert [json.loads(line)["run"]["runId"] for line in lines] == [event.run.runId] * 2


def _write_many(path, number):
    for turn in range(20):
        emit.append(path, json.dumps({"from": number, "turn": turn, "text": str(number) * 100_000}))


def test_processes_do_not_tear_each_others_lines(tmp_path):
    path = tmp_path / "events.ndjson"
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write_many, args=(path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    result = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(message["from"], message["turn"]) for message in result} == {
        (number, turn) for number in range(4) for turn in range(20)
    }
    assert all(message["text"] == str(message["from"]) * 100_000 for message in result)


def test_a_line_that_a_killed_process_left_torn_spoils_no_other(event, home, caplog):
    emit.emit(event)
    path = emit.path_of()
    with path.open("a") as file:
        file.write('{"eventType": "COMP')
    emit.emit(event)

    assert len(list(recorded_events.events())) == 2
    assert "line 2 is not JSON" in caplog.text


def test_machines_that_share_a_home_write_a_file_each(event, home, monkeypatch):
    """A lock on a network volume may not reach from one to the other."""
    for name in ("here", "there.example.com"):
        monkeypatch.setattr(socket, "gethostname", lambda name=name: name)
        emit.emit(event)
    assert sorted(path.name for path in (home / "lineage").iterdir()) == [
        "millrace.here.ndjson",
        "millrace.there-example-com.ndjson",
    ]
    assert len(list(recorded_events.events())) == len(list(recorded_events.events("millrace"))) == 2


def test_a_server_gets_the_event_and_the_file_does_not(event, home, monkeypatch):
    with Server() as server:
        monkeypatch.setenv("OPENLINEAGE_URL", server.url)
        emit.emit(event)

    ((path, received),) = server.received
    assert path == "/api/v1/lineage"
    assert received["run"]["runId"] == event.run.runId
    assert not (home / "lineage").exists()


def test_a_dead_server_costs_a_warning_and_the_file_keeps_the_events(event, monkeypatch, caplog):
    with Server() as server:
        pass
    monkeypatch.setenv("OPENLINEAGE_URL", server.url.replace("//", "//user:secret@"))
    with caplog.at_level(logging.WARNING):
        emit.emit(event)
        emit.emit(event)

    assert len(list(recorded_events.events())) == 2
    assert caplog.text.count(f"The lineage server at {server.url} took no event") == 1
    assert "secret" not in caplog.text


@pytest.mark.parametrize("status", [400, 503])
def test_a_refusal_keeps_the_event_in_the_file(status, event, monkeypatch):
    with Server(status) as server:
        monkeypatch.setenv("OPENLINEAGE_URL", server.url)
        emit.emit(event)

    assert len(server.received) == 1
    assert len(list(recorded_events.events())) == 1


def test_a_silent_server_stalls_once_and_briefly(event, monkeypatch):
    monkeypatch.setattr(emit, "TIMEOUT", 0.2)
    with Server(delay=30) as server:
        monkeypatch.setenv("OPENLINEAGE_URL", server.url)
        for _ in range(5):
            emit.emit(event)

    assert len(server.received) == 1, "it is left alone after the first event, so only that one waits"
    assert len(list(recorded_events.events())) == 5


def test_a_url_that_is_none_is_no_reason_to_fail(event, monkeypatch, caplog):
    monkeypatch.setenv("OPENLINEAGE_URL", "localhost")
    emit.emit(event)

    assert "The lineage server at localhost took no event" in caplog.text
    assert len(list(recorded_events.events())) == 1


def test_a_file_that_cannot_be_written_is_no_reason_to_fail(event, home, caplog):
    (home / "lineage").write_text("in the way")
    emit.emit(event)

    assert "A lineage event is lost" in caplog.text


def test_disabled_means_disabled(event, home, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    emit.emit(event)

    assert not (home / "lineage").exists()


def test_the_openlineage_client_delivers_through_us(event):
    client = OpenLineageClient(config={"transport": {"type": "lineage.transport.FileOrServer", "file": "airflow"}})
    client.emit(event)

    assert [event["run"]["runId"] for event in recorded_events.events("airflow")] == [event.run.runId]
