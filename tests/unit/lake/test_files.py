"""Files are written whole, whoever else writes them at the same time."""

import threading
import time
from pathlib import Path

import pytest

from lake import files
from lake.files import write_whole


def test_writers_with_the_same_process_id_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As containers have that share a volume; threads stand for them."""
    monkeypatch.setattr(files, "sync", lambda _: time.sleep(0.001))
    path, failures, barrier = tmp_path / "file", [], threading.Barrier(4)
    contents = [str(number).encode() * 50_000 for number in range(4)]

    def write(content: bytes) -> None:
        barrier.wait()
        try:
            for _ in range(20):
                write_whole(path, content)
                assert path.read_bytes() in contents
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
