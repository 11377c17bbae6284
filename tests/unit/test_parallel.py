"""How tests are shared out among processes, and what is built once for all."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests import parallel
from tests.parallel import ByFile


@pytest.mark.parametrize(
    ("test", "together"),
    [
        ("tests/unit/lake/test_delta.py::test_x[a::b]", "tests/unit/lake/test_delta.py"),
        ("tests/integration/engines/test_kills.py::test_x", "tests/integration/engines/"),
        ("tests/integration/engines/test_job.py::test_y", "tests/integration/engines/"),
        ("examples/grocery/tests/integration/test_year.py::test_x", "examples/grocery/tests/integration/test_year.py"),
    ],
)
def test_a_file_or_a_folder_with_a_server_stays_in_one_process(test: str, together: str) -> None:
    assert issubclass(ByFile, LoadScopeScheduling)
    assert ByFile._split_scope(None, test) == together  # type: ignore[arg-type]


def test_folders_with_servers_start_first_and_unit_tests_last() -> None:
    names = [
        "tests/unit/a.py::x",
        "tests/integration/d.py::x",
        "examples/grocery/tests/integration/test_year.py::x",
        "tests/integration/online/b.py::x",
        "tests/e2e/c.py::x",
        "tests/unit/a.py::y",
    ]
    items = [SimpleNamespace(nodeid=name) for name in names]
    parallel.in_order(items)
    assert [names.index(item.nodeid) for item in items] == [4, 3, 2, 1, 0, 5]


def test_what_is_built_once_is_built_by_the_first_and_seen_by_all(tmp_path: Path) -> None:
    workers = [SimpleNamespace(getbasetemp=lambda name=name: tmp_path / f"popen-{name}") for name in ("gw0", "gw1")]
    built: list[Path] = []
    folders = {parallel.once(worker, "year", built.append) for worker in (*workers, *workers)}
    assert [*folders] == built == [tmp_path / "once-year"]


def test_a_build_that_failed_is_tried_again(tmp_path: Path) -> None:
    worker = SimpleNamespace(getbasetemp=lambda: tmp_path)
    with pytest.raises(ZeroDivisionError):
        parallel.once(worker, "year", lambda _: 1 / 0)
    assert parallel.once(worker, "year", lambda path: (path / "done").touch()).joinpath("done").exists()
