"""A new project, and contracts proposed from a file."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from contracts import check, project
from contracts.project import ProjectError
from millrace import cli, scaffold
from millrace.scaffold import ProposalError


def test_a_new_project_has_no_problem_and_the_name_of_its_folder(tmp_path: Path) -> None:
    made = scaffold.init(tmp_path / "Corner-Shop")
    assert made.name == "corner_shop"
    assert check.problems(made) == []
    assert not [path for path in made.root.rglob("*.py") if "starter" in path.read_text()]


def test_the_example_is_copied_under_another_name(tmp_path: Path) -> None:
    made = scaffold.init(tmp_path / "big_shop", example=True)
    assert check.problems(made) == []
    assert not [path for path in made.root.rglob("*.py") if "from grocery" in path.read_text()]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a_shop").mkdir()
    (tmp_path / "a_shop" / "notes.txt").write_text("mine")
    with pytest.raises(ProjectError, match=r"a_shop is there already and is not empty\. Name a new folder"):
        scaffold.init(tmp_path / "a_shop")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("features", "a Python package is called features already"),
        ("1shop", "begins with a letter"),
        ("--", "gives no name"),
    ],
)
def test_a_folder_whose_name_cannot_be_a_package_is_refused(tmp_path: Path, folder: str, message: str) -> None:
    with pytest.raises(ProjectError, match=message):
        scaffold.init(tmp_path / folder)
    assert not (tmp_path / folder).exists()


CSV = (
    "Order ID,customerEmail,orderedAt,Total,items,note\na-1,x@y.z,2024-05-01 10:00:00,12.50,2,\na-2,p@q.r,2024-05-02"
    " 11:30:00,3.99,1,gift\n"
)


def proposed(tmp_path: Path, text: str = CSV) -> dict[str, str]:
    (tmp_path / "orders.csv").write_text(text)
    return {str(path): text for path, text in scaffold.propose("silver", "orders", tmp_path / "orders.csv").items()}


def test_a_proposal_has_types_keys_time_and_ranges_of_the_file(tmp_path: Path) -> None:
    files = proposed(tmp_path)
    assert [*files] == ["contracts/bronze/orders.py", "contracts/silver/orders.py", "tests/test_orders.py"]
    assert (
        'Column("order_id", STRING, "Order id", required=True, source="Order ID")'
        in files["contracts/bronze/orders.py"]
    )
    assert 'time_column="ordered_at"' in files["contracts/bronze/orders.py"]
    silver = files["contracts/silver/orders.py"]
    assert 'key=("order_id",),' in silver
    assert 'Column("total", MONEY, "Total", required=True, minimum=0),  # 3.99 to 12.5' in silver
    assert 'Column("items", LONG, "Items", required=True, minimum=0),  # 1 to 2' in silver
    assert 'Column("note", STRING, "Note"),  # 1 different' in silver


def test_a_proposal_shows_no_text_of_the_file(tmp_path: Path) -> None:
    """Text may be about persons."""
    assert not [text for text in proposed(tmp_path).values() if "x@y.z" in text or "gift" in text]


def test_a_proposal_is_a_project_without_problems(tmp_path: Path) -> None:
    made = scaffold.init(tmp_path / "proposed_shop")
    (tmp_path / "visits.csv").write_text(CSV)
    written = scaffold.write(made, scaffold.propose("silver", "visits", tmp_path / "visits.csv"))
    assert len(written) == 3
    assert check.problems(made) == []
    assert scaffold.write(made, scaffold.propose("silver", "visits", tmp_path / "visits.csv")) == []


def test_a_parquet_file_serves_as_well(tmp_path: Path) -> None:
    path = tmp_path / "sums.parquet"
    duckdb.sql(f"COPY (SELECT 1::UTINYINT AS n, DATE '2024-05-01' AS day, 1.5::DECIMAL(9, 3) AS amount) TO '{path}'")
    silver = scaffold.propose("silver", "sums", path)[Path("contracts/silver/sums.py")]
    assert 'Column("n", LONG, "N", required=True, minimum=0)' in silver
    assert 'time_column="day"' in silver
    assert 'Column("amount", MONEY' in silver


def test_a_number_of_many_digits_is_not_rounded_to_money(tmp_path: Path) -> None:
    (tmp_path / "places.csv").write_text("place_id,latitude,price\n1,51.50735,2.5\n2,-12.04637,1.25\n")
    silver = scaffold.propose("silver", "places", tmp_path / "places.csv")[Path("contracts/silver/places.py")]
    assert (
        'Column("latitude", DOUBLE, "Latitude", required=True),  # TODO: a decimal(p, s), if it is to be summed;'
        " -12.04637 to 51.50735" in silver
    )
    assert 'Column("price", MONEY' in silver


def test_headers_that_are_words_of_sql_get_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("order,Group,date\n1,a,2024-05-01\n2,b,2024-05-02\n")
    files = scaffold.propose("silver", "sales", tmp_path / "sales.csv")
    bronze, silver, _ = files.values()
    assert 'Column("order_", LONG, "Order", required=True, source="order")' in bronze
    assert 'Column("group_", STRING, "Group", required=True, source="Group")' in bronze
    assert 'Column("order_", LONG, "Order", required=True, minimum=0)' in silver
    assert 'Column("date", DATE' in silver
    made = scaffold.init(tmp_path / "sql_shop")
    scaffold.write(made, files)
    assert check.problems(made) == []


@pytest.mark.parametrize("header", ["order id,Order-ID", "größe,n", "1st,n"])
def test_headers_that_give_no_names_are_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "odd.csv").write_text(f"{header}\n1,2\n")
    with pytest.raises(
        ProposalError,
        match=r"no names of columns can be made of .*write the contract by hand, with the header as `source`",
    ):
        scaffold.propose("bronze", "odd", tmp_path / "odd.csv")


def test_a_keyword_is_no_name(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="gives no name for a project"):
        scaffold.init(tmp_path / "class")


def test_a_file_without_a_time_is_a_snapshot(tmp_path: Path) -> None:
    made = scaffold.init(tmp_path / "snapshot_shop")
    (tmp_path / "stores.csv").write_text("store_id,city\n1,Dayton\n2,Lima\n")
    files = scaffold.propose("silver", "stores", tmp_path / "stores.csv")
    assert all("load=Load.SNAPSHOT," in text for path, text in files.items() if "contracts" in str(path))
    scaffold.write(made, files)
    assert check.problems(made) == []


PEOPLE = "rider_id,plan,joined\n1,basic,2024-03-01\n2,gold,2024-03-02\n"
QUESTION = "# TODO: events that add up, or the whole state in each file? then --snapshot / load=Load.SNAPSHOT"


def test_a_file_with_a_time_and_a_key_asks_whether_it_holds_events(tmp_path: Path) -> None:
    files = proposed(tmp_path, PEOPLE)
    for path in ("contracts/bronze/orders.py", "contracts/silver/orders.py"):
        assert f'    {QUESTION}\n    time_column="joined",' in files[path]
    no_key = proposed(tmp_path, "sensor,at\na,2024-03-01\na,2024-03-02\nb,2024-03-02\n")
    assert not [text for text in no_key.values() if "add up" in text]


def test_a_snapshot_has_no_time_in_silver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = scaffold.init(tmp_path / "riders_shop")
    monkeypatch.setenv("MILLRACE_PROJECT", str(made.root))
    (tmp_path / "people.csv").write_text(PEOPLE)
    assert cli.main(["new", "silver", "people", "--from", str(tmp_path / "people.csv"), "--snapshot"]) == 0
    bronze, silver = ((made.root / "contracts" / layer / "people.py").read_text() for layer in ("bronze", "silver"))
    assert 'time_column="_landed_date",\n    load=Load.SNAPSHOT,' in bronze
    assert "load=Load.SNAPSHOT,  # each file is the whole state" in silver
    assert "time_column" not in silver
    assert "TODO: events" not in bronze + silver
    assert check.problems(made) == []


def test_check_names_services_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = scaffold.init(tmp_path / "unserved_shop")
    monkeypatch.setenv("MILLRACE_PROJECT", str(made.root))
    (made.root / "services.py").write_text("from features import view\n")
    assert cli.main(["check"]) == 1
    out = capsys.readouterr().out.replace("\n", "")
    assert "services.py:1: it cannot be imported: ImportError: cannot import name 'view' from 'features'" in out


def test_exact_duplicates_hide_no_key(tmp_path: Path) -> None:
    assert 'key=("rider_id",),\n' in proposed(tmp_path, PEOPLE + "2,gold,2024-03-02\n")["contracts/silver/orders.py"]


def test_a_nearly_unique_column_is_proposed_with_the_rows_that_share_a_value(tmp_path: Path) -> None:
    lines = "".join(f"{number},basic,2024-03-01\n" for number in (1, 2, 3, 4, 5, 6, 7)) + "7,gold,2024-03-01\n"
    silver = proposed(tmp_path, f"rider_id,plan,joined\n{lines}")["contracts/silver/orders.py"]
    assert (
        'key=("rider_id",),  # TODO: 2 of 8 rows share their value with another row; is it the key?\n'
        f"    {QUESTION}\n" in silver
    )
    silver = proposed(tmp_path, "rider_id,n\n1,1\n1,2\n2,1\n")["contracts/silver/orders.py"]
    assert "key=(),  # TODO: no column is different in each row" in silver


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        (
            ["2024-03-01", "2024-03-02", "2024-03-03", "2024/03/01", "31.12.2024", "soon"],
            'DATE, "Day", required=True),  # TODO: cells that are not YYYY-MM-DD, whose rows will be rejected: 1'
            " YYYY/MM/DD, 1 DD.MM.YYYY, 1 of another format",
        ),
        (
            ["2024-03-01 10:00:00", "2024-03-02", "2024-03-03T10:00:00Z", "2024/03/01 10:00:00"],
            'TIMESTAMP, "Day", required=True),  # TODO: cells that are not YYYY-MM-DD HH:MM:SS, whose rows will be'
            " rejected: 1 YYYY/MM/DD",
        ),
        (
            ["31.12.2024", "01.02.2024"],
            'STRING, "Day", required=True),  # TODO: only YYYY-MM-DD lands as a date; cells of other formats: 2'
            " DD.MM.YYYY",
        ),
        (["2024-03-01", "2024-03-02"], 'DATE, "Day", required=True),'),
        (["soon", "2024-03-02", "later"], 'STRING, "Day", required=True),'),
    ],
)
def test_dates_of_other_formats_are_counted(tmp_path: Path, cells: list[str], column: str) -> None:
    text = "day,n\n" + "".join(f"{cell},{number}\n" for number, cell in enumerate(cells))
    assert f'        Column("day", {column}\n' in proposed(tmp_path, text)["contracts/bronze/orders.py"]


@pytest.mark.parametrize(
    ("text", "separator", "column"),
    [
        ("id;amount\n1;2,50\n2;3,75\n", "semicolons", 'Column("amount", DOUBLE'),
        ("id\tamount\n1\t2,50\n", "tabs", 'Column("amount", DOUBLE'),
        ("a|b, or c|d\n1|2|3\n", "vertical bars", 'Column("d", LONG'),
    ],
)
def test_a_file_with_another_separator_is_to_be_converted(
    tmp_path: Path, text: str, separator: str, column: str
) -> None:
    with pytest.raises(ProposalError, match=rf"{separator} separate its cells, and only commas .*Convert it") as raised:
        proposed(tmp_path, text)
    [command] = re.findall(r"the converted file: python (.*)\. Without decimal", str(raised.value))
    subprocess.run([sys.executable, *shlex.split(command)], check=True)
    bronze = scaffold.propose("bronze", "orders", tmp_path / "comma_orders.csv")[Path("contracts/bronze/orders.py")]
    assert column in bronze


def test_a_quoted_header_may_hold_semicolons(tmp_path: Path) -> None:
    assert 'source="a;b;c"' in proposed(tmp_path, '"a;b;c",n\n1,2\n')["contracts/bronze/orders.py"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("orders.txt", "a", r"is neither \.csv nor \.parquet"),
        ("orders.csv", "a,b\n", "has no rows, so it shows nothing"),
        ("orders.parquet", "a", "cannot be read"),
    ],
)
def test_a_file_that_shows_nothing_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ProposalError, match=message):
        scaffold.propose("bronze", "orders", tmp_path / name)


def test_check_ends_with_1_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = scaffold.init(tmp_path / "broken_shop")
    monkeypatch.setenv("MILLRACE_PROJECT", str(made.root))
    assert cli.main(["check"]) == 0
    assert "broken_shop: 3 tables, no problem" in capsys.readouterr().out
    broken = scaffold.init(tmp_path / "other_shop").root
    path = broken / "contracts" / "silver" / "orders.py"
    path.write_text(path.read_text().replace('"bronze.orders"', '"bronze.order"'))
    monkeypatch.setenv("MILLRACE_PROJECT", str(broken))
    assert cli.main(["check"]) == 1
    out = capsys.readouterr()
    assert (
        "contracts/silver/orders.py:17: silver.orders: its input bronze.order does not exist. Did you mean"
        " bronze.orders?" in out.out.replace("\n", "")
    )
    assert "CheckError: 1 problem in the project other_shop" in out.err


def test_a_project_that_is_none_is_reported_by_each_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_PROJECT", str(tmp_path / "nowhere"))
    for command in ("check", "tables"):
        assert cli.main([command]) == 1
        assert capsys.readouterr().err.startswith(f"ProjectError: there is no millrace.toml in {tmp_path}")
    assert cli.main(["init", str(tmp_path / "rescued_shop")]) == 0


def test_commands_that_cannot_be_imported_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = scaffold.init(tmp_path / "commanding_shop")
    (made.root / "commands.py").write_text("def add(:\n")
    monkeypatch.setenv("MILLRACE_PROJECT", str(made.root))
    assert cli.main(["tables"]) == 1
    assert "commands.py cannot be used: SyntaxError: invalid syntax" in capsys.readouterr().err
    assert cli.main(["check"]) == 0


def test_a_project_that_cannot_run_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = scaffold.init(tmp_path / "unsound_shop")
    (made.root / "transforms" / "gold").mkdir(parents=True)
    (made.root / "transforms" / "gold" / "customer_orders.py").write_text("")
    monkeypatch.setenv("MILLRACE_PROJECT", str(made.root))
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    assert cli.main(["sample"]) == 0
    assert cli.main(["run", "--start", "2030-01-01", "--end", "2030-01-02"]) == 1
    assert "ProjectError: the project unsound_shop cannot run: " in capsys.readouterr().err
    assert cli.main(["serve"]) == 1
    assert "ProjectError: the project unsound_shop cannot run: " in capsys.readouterr().err
    assert not (tmp_path / "home" / "lake").exists()


def test_a_view_without_a_service_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = scaffold.init(tmp_path / "viewless_shop")
    (made.root / "services.py").write_text("")
    monkeypatch.setenv("MILLRACE_PROJECT", str(made.root))
    assert cli.main(["check"]) == 1
    assert "no feature service has the view customer_orders" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("services", "message"),
    [
        (
            "customer_orders = FeatureService(name='a', features=[views.view('customer_orders')])",
            "customer_orders is the name of two things",
        ),
        (
            "customer = FeatureService(name='a', features=[views.view('customer_orders')])",
            "customer is the name of two things",
        ),
        (
            "registry = FeatureService(name='a', features=[views.view('customer_orders')])",
            "registry is a name that Millrace's Feast repository uses itself",
        ),
    ],
)
def test_names_that_would_hide_each_other_in_feast_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: str, message: str
) -> None:
    from millrace import pipeline

    made = scaffold.init(tmp_path / f"hiding_{services.split()[0]}_shop")
    (made.root / "services.py").write_text(
        f"from feast import FeatureService\nfrom features import views\n{services}\n"
    )
    monkeypatch.setenv("MILLRACE_PROJECT", str(made.root))
    assert any(message in problem.message for problem in pipeline.project_problems())


def test_the_project_is_checked_by_the_pipeline_before_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from millrace import pipeline

    monkeypatch.setenv("MILLRACE_PROJECT", str(scaffold.init(tmp_path / "gate_shop").root))
    pipeline.ensure_project()
    (project.current().root / "services.py").write_text("")
    project.current().root.joinpath("contracts", "gold", "extra.py").write_text("extra = 1\n")
    with pytest.raises(
        ProjectError,
        match=(
            r"the project gate_shop cannot run: .*contracts/gold/extra\.py:1: contracts/gold/extra\.py must declare"
            r" `extra`"
        ),
    ):
        pipeline.ensure_project()
