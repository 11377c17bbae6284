"""The file of tails, replaced under a reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from features.streaming import sqlite
from features.streaming.sqlite import SqliteTailReader, SqliteTailStore
from features.streaming.tail_store import Advance, Position


def test_a_reader_sees_the_file_that_took_the_place_of_a_deleted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    reader = SqliteTailReader()
    assert reader.rows("t", [b"k"]) is None
    for payload in (b"old", b"new"):
        SqliteTailStore().advance([Advance("t", 0, None, Position(7, 0, 1), [(b"k", 0, payload)])])
        found = reader.rows("t", [b"k"])
        assert found is not None
        assert found.entries == [[(0, 0, payload)]]
        sqlite.remove_file()
        assert reader.rows("t", [b"k"]) is None
