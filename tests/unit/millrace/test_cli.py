"""The command line: 0 when it did what it says, 1 and a sentence when it could not, 2 for a wrong command."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contracts.interval import Interval
from contracts.report import PUBLISHED, RowAccount, TableReport
from lake import release, settings
from lake.publishing import PublishError
from millrace import cli
from tests.cinema import Cinema

pytestmark = pytest.mark.usefixtures("home")
Out = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        [],
        ["run"],
        ["run", "--start", "2017-01-01"],
        ["run", "--strat", "2017-01-01"],
        ["serve", "--release", "newest"],
        ["tables", "extra"],
        ["profile"],
        ["profile", "silver.movies", "--by", "spark"],
        ["vacuum", "--days", "0"],
        ["vacuum", "--forget-releases-before", "one"],
        ["training-set"],
        ["training-set", "create", "--name", "a"],
        ["training-set", "create", "--name", "a", "--labels", "a.csv", "--service", "s", "--seed", "x"],
        ["training-set", "leaks"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_2_with_the_usage(arguments: list[str], capsys: Out) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("Usage: python -m millrace")


def test_help_lists_every_command(capsys: Out) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(
        f"\n  {name} " in out
        for name in ("sample", "run", "serve", "compare", "tables", "profile", "optimize", "vacuum", "training-set")
    )


def test_the_command_millrace_is_this_command_line(tmp_path: Path, home: Path) -> None:
    """From any folder, also one that has a `millrace` of its own."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "venv").mkdir()
    (tmp_path / "millrace").mkdir()
    (tmp_path / "millrace" / "__init__.py").write_text("")
    (tmp_path / "venv" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    shutil.copy(settings.CHECKOUT / "scripts" / "millrace", tmp_path / "venv")
    (tmp_path / "venv" / "python").chmod(0o755)
    (tmp_path / "bin" / "millrace").symlink_to(tmp_path / "venv" / "millrace")
    environment = {**os.environ, "PYTHONPATH": str(settings.CHECKOUT)}
    completed = subprocess.run(
        [tmp_path / "bin" / "millrace", "training-set", "list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (completed.returncode, completed.stdout.splitlines()[0]) == (0, "Training sets")
    wrong = subprocess.run(
        [tmp_path / "venv" / "millrace", "fly"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (wrong.returncode, wrong.stderr.split()[:2]) == (2, ["Usage:", "millrace"])


def command(*arguments: str, folder: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """`millrace` as a user calls it, in its own process."""
    for name in ("millrace", "health.py"):
        target = folder / ("millrace-health.py" if name == "health.py" else name)
        shutil.copy(settings.CHECKOUT / "scripts" / name, target)
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(settings.CHECKOUT)}
    return subprocess.run(
        [folder / "millrace", *arguments], env=environment, text=True, stderr=subprocess.PIPE, **options
    )


@pytest.mark.parametrize("arguments", [["health", "--help"], ["health", "scheduler", "--help"]], ids=" ".join)
def test_the_short_cut_of_health_has_help(arguments: list[str], tmp_path: Path) -> None:
    done = command(*arguments, folder=tmp_path, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: millrace health" in done.stdout
    assert "--live" in done.stdout


@pytest.mark.parametrize("arguments", [["settings"], ["settings", "--json"], ["--version"], ["--help"]], ids=" ".join)
def test_output_that_cannot_be_written_is_no_fault_of_the_home(arguments: list[str], tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = command(*arguments, folder=tmp_path, stdout=full)
    assert done.returncode == 1
    message = (
        "OutputError: standard output cannot be written: No space left on device. Send it to a file or a disk with"
    )
    assert done.stderr == f"{message} room\n"


def test_a_pipe_that_is_closed_early_is_silent(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = command("settings", folder=tmp_path, stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


INTERRUPTED = """
import atexit, os, signal, sys, time
from millrace import cli, pipeline
atexit.register(os.abort)  # as an engine's thread does that still computes
def run_all(*_):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
pipeline.run_all = run_all
sys.exit(cli.main(["run", "--start", "2017-03-01", "--end", "2017-03-02"]))
"""


def test_an_interrupted_run_is_130_with_a_sentence() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=settings.CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        130,
        "Interrupted. What was published is intact, and the same command goes on from there.\n",
    )


def test_versions_are_printed_and_nothing_of_the_project_is_imported(capsys: Out, monkeypatch: Any) -> None:
    monkeypatch.setattr(cli, "_add_commands_of_project", lambda _: pytest.fail("the project was imported"))
    assert cli.main(["--version"]) == 0
    versions = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert versions["millrace"] == "0.1.0"
    assert versions.keys() == {"millrace", "python", "pysail", "pyspark", "feast", "airflow"}
    code = "import sys; from millrace import cli; cli.main(['--version']); print({*sys.modules} & {'pysail', 'feast'})"
    done = subprocess.run([sys.executable, "-c", code], cwd=settings.CHECKOUT, capture_output=True, text=True)
    assert done.stdout.endswith("set()\n")


@pytest.fixture
def sentence(capsys: Out) -> Callable[..., str]:
    """What the command said on standard error as it gave up."""

    def failed(*arguments: str) -> str:
        assert cli.main([*arguments]) == 1
        output = capsys.readouterr()
        assert output.out == ""
        assert "Traceback" not in output.err
        assert "\x1b" not in output.err
        (line,) = output.err.splitlines()
        return line

    return failed


def test_an_interval_that_ends_before_it_starts(sentence: Callable) -> None:
    assert sentence("run", "--start", "2017-03-05", "--end", "2017-03-01").startswith(
        "IntervalError: end 2017-03-01 is not after start 2017-03-05."
    )


def test_an_interval_outside_of_the_data(sentence: Callable, cinema: Cinema) -> None:
    assert "[2016-01-01, 2016-01-02) lies outside the data" in sentence(
        "run", "--start", "2016-01-01", "--end", "2016-01-02"
    )


def test_no_landing_zone(sentence: Callable, home: Path) -> None:
    message = sentence("run", "--start", "2017-03-01", "--end", "2017-03-02")
    assert message.startswith(f"LandingError: there is no landing zone at {home / 'landing'}. Run `make sample`")


def test_serving_before_there_is_a_release(sentence: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        cli.pipeline, "serve", lambda number, **_: release.read(number)
    )  # what it does first, without the seconds that Feast takes to import
    assert sentence("serve").startswith("ReleaseError: there is no release below")
    assert sentence("serve", "--release", "7").startswith("ReleaseError: there is no release below")


def test_square_brackets_of_an_error_are_text_and_not_markup(
    sentence: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("[bold]a [/] b[2017-01-01, 2017-01-02)")

    monkeypatch.setattr(cli.pipeline, "run_all", fail)
    assert (
        sentence("run", "--start", "2017-03-01", "--end", "2017-03-02")
        == "RuntimeError: [bold]a [/] b[2017-01-01, 2017-01-02)"
    )


def test_a_home_that_cannot_be_a_folder(sentence: Callable, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    (home / "file").write_text("x")
    monkeypatch.setenv("MILLRACE_HOME", str(home / "file"))
    assert "Error: " in sentence("run", "--start", "2017-03-01", "--end", "2017-03-02")


def test_no_table_is_an_empty_list(capsys: Out) -> None:
    assert cli.main(["tables"]) == 0
    assert capsys.readouterr().out.startswith("Published tables")


@pytest.fixture
def published(home: Path) -> str:
    """A table of three rows, some of which a terminal had better not take for commands."""
    from deltalake import write_deltalake

    rows = {
        "shop": ["[/]b\x1b[31m", "", None],
        "opened_at": [datetime(2017, 1, 1, tzinfo=UTC), None, datetime(2017, 1, 1, 9, 30, tzinfo=UTC)],
    }
    path = home / "lake" / "silver" / "shops"
    path.mkdir(parents=True)
    write_deltalake(
        path, pa.table({**rows, "takings": pa.array([Decimal("-1.50"), Decimal("2.00"), None], pa.decimal128(12, 2))})
    )
    return "silver.shops"


def test_a_profile_in_a_pipe(published: str, capsys: Out) -> None:
    assert cli.main(["profile", published, "--by", "duckdb"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert out.startswith("silver.shops, version 0: 3 rows, counted by duckdb\n")
    lines = [line.split() for line in out.splitlines()]
    assert ["takings", "decimal(12,2)", "1", "2", "-1.50", "2.00", "0.25", "2.47487"] in lines
    assert ["opened_at", "timestamp", "1", "2", "2017-01-01", "2017-01-01", "09:30:00"] in lines
    assert ["shop", "''", "(1)", "[/]b\\x1b[31m", "(1)"] in lines


def test_data_frames_count_the_same_profile(published: str, capsys: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = []
    for library in ("duckdb", "pandas"):  # which stands in for cuDF
        monkeypatch.setattr("features.offline.frames.choose", lambda *_, name=library: name)
        assert cli.main(["profile", published, "--version", "0", "--json"]) == 0
        profiles.append(json.loads(capsys.readouterr().out))
    assert [profile.pop("by") for profile in profiles] == ["duckdb", "pandas"]
    assert profiles[0] == profiles[1]
    assert profiles[0]["columns"][2]["frequent"] == [{"value": "-1.50", "rows": 1}, {"value": "2.00", "rows": 1}]


def test_a_profile_of_what_is_not_there(sentence: Callable, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SourceError: gold.shops was never published" in sentence("profile", "gold.shops")
    assert "SourceError: silver.shops has no version 3: its newest is 0" in sentence(
        "profile", published, "--version", "3"
    )
    monkeypatch.setattr("features.offline.frames.find_spec", lambda _name: None)
    assert sentence("profile", published, "--by", "cudf").startswith(
        "FramesError: cudf was requested, and it is not installed. Run `make gpu`"
    )


def test_a_run_that_fails_accounts_for_the_tables_that_it_published(
    capsys: Out, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_table(name: str, *_: object) -> TableReport:
        if name == "silver.movies":
            raise PublishError("silver.movies: another writer committed")
        return TableReport(name, PUBLISHED, 3, RowAccount(1_234, 1_230, 3, 1), {"stage": 0.5})

    monkeypatch.setattr(cli.pipeline, "check_interval", Interval.parse)
    monkeypatch.setattr(cli.pipeline, "run_table", run_table)
    assert cli.main(["run", "--start", "2017-03-01", "--end", "2017-03-02"]) == 1
    output = capsys.readouterr()
    lines = [line.split() for line in output.out.splitlines()]
    assert ["bronze.movies", "1,234", "1,230", "3", "1", "3", "0.50", "0.00", "0.00", "2,468"] in lines
    assert not [line for line in lines if line[:1] == ["silver.movies"]]
    assert not [line for line in lines if line[:1] == ["release"]]
    assert output.err == "PublishError: silver.movies: another writer committed\n"


def test_what_a_defect_raises_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AttributeError("a defect")

    monkeypatch.setattr(cli.pipeline, "run_all", fail)
    with pytest.raises(AttributeError, match="a defect"):
        cli.main(["run", "--start", "2017-03-01", "--end", "2017-03-02"])


def test_a_feature_is_traced_to_its_landed_fields(capsys: Out) -> None:
    assert cli.main(["lineage", "gold.guest_activity.paid_7d"]) == 0
    assert capsys.readouterr().out.splitlines()[:4] == [
        "gold.guest_activity.paid_7d",
        "  silver.tickets.paid  aggregation",
        "    bronze.tickets.paid  transformation",
        "      landing.tickets.paid  identity",
    ]
    assert cli.main(["lineage", "gold.guest_activity.paid_7d", "--json"]) == 0
    step = json.loads(capsys.readouterr().out)[0]
    source = {"table": "silver.tickets", "column": "paid", "use": "AGGREGATION"}
    assert step == {"depth": 0, "of": "gold.guest_activity.paid_7d", "source": source}


def test_a_table_is_listed_with_the_direct_sources_of_each_column(capsys: Out) -> None:
    """Without the columns that only select or group rows."""
    assert cli.main(["lineage", "gold.guest_activity"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "gold.guest_activity.guest_id",
        "  silver.tickets.guest_id  identity",
        "gold.guest_activity.event_timestamp",
        "  silver.tickets.sold_at  transformation",
        "gold.guest_activity.paid_7d",
        "  silver.tickets.paid  aggregation",
    ]
    assert cli.main(["lineage", "gold.guest_activity", "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)
    assert {step["depth"] for step in steps} == {0}
    source = {"table": "silver.tickets", "column": "sold_at", "use": "TRANSFORMATION"}
    assert {"depth": 0, "of": "gold.guest_activity.event_timestamp", "source": source} in steps


@pytest.mark.parametrize("name", ["gold.guest_profile", "gold.guest_profile.event_timestamp"])
def test_a_column_without_a_source_says_how_to_name_it(capsys: Out, name: str) -> None:
    assert cli.main(["lineage", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("gold.guest_profile.event_timestamp")
    assert lines[at + 1] == "  a transform computes it; name its source with `source`"


def test_a_column_that_loading_adds_has_no_source(capsys: Out) -> None:
    assert cli.main(["lineage", "bronze.tickets._file"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "  Millrace adds it to each landed row"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("paid", "'paid' is neither a column nor a table. Give a column as layer.table.column"),
        ("gold.guests", "there is no table 'gold.guests'"),
        ("gold.guest_activity.spend", "gold.guest_activity has no column spend; it has guest_id"),
        ("gold.guests.spend", "there is no table 'gold.guests'"),
    ],
)
def test_the_lineage_of_what_is_not_there(sentence: Callable, column: str, message: str) -> None:
    assert message in sentence("lineage", column)
