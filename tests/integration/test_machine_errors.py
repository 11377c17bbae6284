"""A full disk, a read-only home, a link to itself: one sentence with the remedy, exit code 1, no traceback, and what is
published stays.

The disks are real: small file systems in memory, mounted over a folder of the home. That takes root, which a container
has.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from expectations import docs
from lake import release, settings
from millrace import cli, demo, services
from tests.cinema import Cinema
from tests.landing import versions
from tests.projects import GROCERY

RUN = ("run", "--start", "2017-03-01", "--end", "2017-03-02")
Disk = Callable[..., object]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    """Mount a file system of so many KiB over a folder, for as long as a block runs."""

    @contextmanager
    def mounted(folder: Path, kib: int, *options: str) -> Iterator[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={kib}k", *options)), "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(
                f"this user may not mount a small file system, so a full disk is not tested: {done.stderr.strip()}"
            )
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)

    return mounted


@pytest.fixture
def failure(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that a command ends with."""

    def told(main: Callable[..., int], *arguments: str) -> str:
        capsys.readouterr()
        assert main([*arguments]) == 1
        said = capsys.readouterr()
        assert "Traceback" not in said.out + said.err
        return (said.err.strip() or said.out.strip()).splitlines()[-1]

    return told


def fill(folder: Path) -> None:
    """Leave no byte."""
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)


def test_a_disk_that_fills_up_after_the_tables(
    cinema: Cinema, home: Path, disk: Disk, failure: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    with disk(home / "lake" / "_releases", 16) as full:
        fill(full)
        told = failure(cli.main, *RUN)
        assert told.startswith("RunError: release: the run failed (No space left on device: ")
        assert told.endswith(
            f"Published tables are intact. See that {home}/lake has room and can be written, then run the interval"
            " again"
        )
        assert [*full.iterdir()] == [full / "filler"]
    published = versions()
    assert published["gold.guest_activity"] == 1
    with disk(home / "data_docs", 64):
        assert cli.main([*RUN]) == 0, "tables and release are there: the run did what it was to do"
        told = capsys.readouterr().err.strip()
        assert told.startswith("Warning: the Data Docs were not rendered (No space left on device")
        assert told.endswith(f"See that {home} has room and can be written: the next run renders them")
        assert len(told.splitlines()) == 1
    assert versions() == published
    assert release.numbers() == [1]
    with disk(home / "feast", 16) as full:
        fill(full)
        told = failure(cli.main, "serve")
        assert f"See that {home} has room and can be written, then" in told
    assert cli.main([*RUN]) == 0
    assert capsys.readouterr().err == ""
    assert docs.index().exists()


@pytest.fixture
def read_only(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "read-only"
    with disk(folder, 64, "ro"):
        monkeypatch.setenv("MILLRACE_HOME", str(folder))
        yield folder


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(cli.main, ("sample",)), (cli.main, RUN), (services.main, ("up",)), (demo.main, ())],
    ids=["sample", "run", "up", "demo"],
)
def test_a_read_only_home(
    home: Path,
    read_only: Path,
    failure: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    main: Callable,
    arguments: tuple[str, ...],
) -> None:
    Cinema.open(home / "landing")
    if arguments != RUN:  # the cinema has no sample to land and to show
        monkeypatch.setenv("MILLRACE_PROJECT", str(GROCERY))
    monkeypatch.setenv("MILLRACE_LANDING", str(home / "landing" if arguments == RUN else read_only / "landing"))
    told = failure(main, *arguments)
    assert "Read-only file system" in told
    assert str(read_only) in told
    assert "for writing, or set MILLRACE_HOME to a folder that can be written, then run" in told


@pytest.mark.parametrize(
    ("variable", "main", "arguments"),
    [
        *((variable, cli.main, RUN) for variable in ("MILLRACE_HOME", "MILLRACE_LAKE", "MILLRACE_LANDING")),
        *(("MILLRACE_HOME", services.main, (command,)) for command in ("up", "down", "status")),
    ],
    ids=["run home", "run lake", "run landing", "up", "down", "status"],
)
def test_a_link_to_itself(
    home: Path,
    failure: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    main: Callable,
    arguments: tuple[str, ...],
) -> None:
    loop = home / "loop"
    loop.symlink_to(loop)
    monkeypatch.setenv(variable, str(loop))
    told = failure(main, *arguments)
    assert f"Too many levels of symbolic links: {loop}" in told
    assert "Put a folder, or a link to one, in the place of the symbolic link" in told


def test_a_fresh_process_ends_in_one_line_too(home: Path) -> None:
    loop = home / "loop"
    loop.symlink_to(loop)
    command = [sys.executable, "-W", "ignore", "-m", "millrace.services", "status"]
    done = subprocess.run(
        command, cwd=settings.CHECKOUT, env={"MILLRACE_HOME": str(loop)}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
