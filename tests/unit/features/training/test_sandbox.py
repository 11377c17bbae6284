"""SQL of a user reads the tables of its release, and nothing else; a path that came over a network leads to a declared
folder, and nowhere else.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from features import training
from features.offline.labels import LabelError
from features.training import sandbox
from lake import release, settings
from tests.unit.etl import visits as visits_of
from tests.unit.features.conftest import Lake, activity

SECRET = "nobody may read this"
EVENTS = "SELECT guest_id, event_timestamp FROM gold.guest_activity ORDER BY ALL"


@pytest.fixture
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each kind, each of which holds SECRET."""
    folder = tmp_path_factory.mktemp("secret")
    for suffix in ("txt", "csv", "json"):
        (folder / f"file.{suffix}").write_text(SECRET if suffix != "json" else f'{{"a": "{SECRET}"}}')
    pq.write_table(pa.table({"guest_id": [1], "a": [SECRET]}), folder / "file.parquet")
    return folder


@pytest.fixture
def one_table(lake: Lake) -> release.Release:
    """A release of one small table."""
    lake.write("guest_activity", [activity(1, "2017-01-02")])
    return lake.release("guest_activity")


def test_it_reads_the_tables_of_its_release_at_their_versions(cinema: Lake) -> None:
    then = release.read()
    expected = sandbox.select(EVENTS, then)
    cinema.write("guest_activity", [activity(9, "2017-01-02")])
    assert expected.num_rows == 4
    assert sandbox.select(EVENTS, then) == expected
    assert sandbox.select("SELECT sum(paid_7d)::VARCHAR AS s FROM gold.guest_activity", then)["s"].to_pylist() == [
        "116.82"
    ]
    assert sandbox.select("WITH few AS (FROM gold.guest_profile) SELECT count(*) AS n FROM few", then)[
        "n"
    ].to_pylist() == [3]


CONDITIONS = (
    "visitor = 'ada'",
    "visitor IS NULL",
    "visitor > 'b'",
    "paid > 1",
    "paid IS NULL",
    "weight < 1",
    "is_member",
    "booked_date = DATE '2017-02-01'",
    "visited_at < TIMESTAMPTZ '2017-03-02 00:00:00+00'",
    "visit_id IN (1, 3)",
)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_condition_on_a_column_of_any_type_finds_its_rows(home: Path, condition: str) -> None:
    """The log of our tables has no bounds for text, decimals, doubles and flags."""
    visits = [
        visits_of.visit(1),
        visits_of.visit(2, visitor="bob", weight=2.0, is_member=False),
        visits_of.visit(3, visitor=None, paid=None),
    ]
    made = release.write({"silver.visits": visits_of.publish(*visits)}, "2017-03-02")
    counted = sandbox.select(f"SELECT count(*) FILTER (WHERE {condition}) AS n FROM silver.visits", made)[
        "n"
    ].to_pylist()
    assert (
        sandbox.select(f"SELECT count(*) AS n FROM silver.visits WHERE {condition}", made)["n"].to_pylist() == counted
    )
    assert counted[0] > 0


def test_a_partitioned_table_has_its_values_and_skips_by_them(home: Path) -> None:
    rows = pa.table({"shop": ["a", "b", None], "n": [1, 2, 3], "name": ["x", None, "z"]})
    write_deltalake(settings.table_path("silver.visits"), rows, partition_by=["shop"])
    made = release.write({"silver.visits": 0}, "2017-03-02")
    assert sandbox.select("FROM silver.visits ORDER BY n", made).select(rows.column_names) == rows
    assert sandbox.select("SELECT n FROM silver.visits WHERE shop = 'b' AND name IS NULL", made)["n"].to_pylist() == [2]
    assert sandbox.select("SELECT n FROM silver.visits WHERE shop IS NULL", made)["n"].to_pylist() == [3]


ATTACKS = [
    "SELECT * FROM read_text('{0}/file.txt')",
    "SELECT * FROM read_blob('{0}/file.txt')",
    "SELECT * FROM read_csv('{0}/file.csv')",
    "SELECT * FROM read_csv_auto('{0}/*')",
    "SELECT * FROM read_json('{0}/file.json')",
    "SELECT * FROM read_parquet('{0}/file.parquet')",
    "SELECT * FROM parquet_scan(['{0}/file.parquet'])",
    "SELECT * FROM '{0}/file.parquet'",
    "SELECT * FROM '{0}/file.csv'",
    'SELECT * FROM "{0}/file.csv"',
    "SELECT * FROM 'file://{0}/file.csv'",
    "SELECT * FROM read_text('file://{0}/file.txt')",
    "SELECT * FROM read_text('{0}/../{1}/file.txt')",
    "SELECT * FROM read_parquet('s3://bucket/file.parquet')",
    "SELECT * FROM read_csv('https://127.0.0.1:1/file.csv')",
    "SELECT * FROM glob('{0}/*')",
    "SELECT * FROM sniff_csv('{0}/file.csv')",
    "SELECT * FROM parquet_metadata('{0}/file.parquet')",
    "SELECT * FROM parquet_kv_metadata('{0}/file.parquet')",
    "SELECT * FROM query('SELECT * FROM read_text(''{0}/file.txt'')')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{0}/file.txt'')'))",
    "SELECT * FROM query_table('{0}/file.parquet')",
    (
        "SELECT guest_id, '' AS content FROM gold.guest_activity UNION ALL SELECT 1, content FROM"
        " read_text('{0}/file.txt')"
    ),
    "SELECT (SELECT content FROM read_text('{0}/file.txt')) AS content FROM gold.guest_activity",
    "WITH f AS MATERIALIZED (FROM read_text('{0}/file.txt')) FROM f",
    "WITH f AS (COPY (SELECT 1) TO '{0}/new.csv') FROM f",
    "SELECT * FROM enable_logging(storage := 'file', storage_path := '{0}/new')",
    "SELECT * FROM enable_profiling(save_location := '{0}/new')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM which_secret('s3://bucket', 's3')",
    "SELECT * FROM sqlite_scan('{0}/file.txt', 'a')",
    "SELECT getenv('HOME')",
    "FROM gold.guest_activity; SELECT * FROM read_text('{0}/file.txt')",
    "COPY (SELECT 1) TO '{0}/new.csv'",
    "COPY gold.guest_activity FROM '{0}/file.csv'",
    "ATTACH '{0}/file.txt'",
    "INSTALL httpfs",
    "LOAD '{0}/file.txt'",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA enable_profiling",
    "CALL pragma_version()",
    "CREATE VIEW v AS FROM read_text('{0}/file.txt')",
    "EXPORT DATABASE '{0}/new'",
    "IMPORT DATABASE '{0}'",
    "EXPLAIN ANALYZE SELECT * FROM read_text('{0}/file.txt')",
    "PREPARE p AS SELECT * FROM read_text('{0}/file.txt')",
    "",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_tells_nothing(one_table: release.Release, secret: Path, attack: str) -> None:
    before = sorted(path.name for path in secret.iterdir())
    sql = attack.format(secret, secret.name)
    with pytest.raises(
        LabelError,
        match=r"^the labels' SQL cannot be run: .* release 1: gold\..*, and no file$|^labels as SQL must be one SELECT",
    ) as caught:
        sandbox.select(sql, one_table)
    assert SECRET not in str(caught.value)
    assert sorted(path.name for path in secret.iterdir()) == before


@pytest.mark.parametrize("below", ["_releases/1.json", "gold/guest_profile/_delta_log/00000000000000000000.json"])
def test_the_lake_is_open_by_table_only(cinema: Lake, below: str) -> None:
    """Files of the lake, too, may be those of another release, of quarantine, or of bronze."""
    with pytest.raises(LabelError, match="Permission Error"):
        sandbox.select(f"SELECT * FROM read_text('{settings.lake() / below}')", release.read())
    for file in (settings.lake() / "gold" / "guest_profile").glob("*.parquet"):
        with pytest.raises(LabelError, match="Permission Error"):
            sandbox.select(f"SELECT * FROM '{file}'", release.read())


def test_a_folder_name_with_a_quote_is_a_name(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_LAKE", str(tmp_path / "it's a folder"))
    lake.write("guest_activity", [activity(1, "2017-01-02")])
    made = lake.release("guest_activity")
    assert sandbox.select(EVENTS, made)["guest_id"].to_pylist() == [1]


def test_what_does_not_end_is_ended(one_table: release.Release, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "SECONDS", 0.5)
    with pytest.raises(LabelError, match=r"^the labels' SQL ran for .* s and was ended\. Select fewer"):
        sandbox.select("SELECT max(a.i * b.i) FROM range(100000000) a(i), range(100000000) b(i)", one_table)


def test_rows_without_end_are_refused_before_memory_is(
    one_table: release.Release, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "MEMORY_DIVISOR", 2**14)
    with pytest.raises(
        LabelError, match=r"^the labels' SQL gives more than [\d,]+ MiB of rows\. .*: select fewer labels"
    ):
        sandbox.select("SELECT i FROM range(1000000000) r(i)", one_table)


# --- paths that came over a network


@pytest.fixture
def folder(home: Path) -> Path:
    """The declared folder, with a file of labels."""
    made = settings.labels()
    (made / "below").mkdir(parents=True)
    (made / "below" / "labels.csv").write_text("guest_id\n1\n")
    return made


def test_a_file_below_the_folder_is_taken(folder: Path) -> None:
    expected = folder / "below" / "labels.csv"
    (folder / "link.csv").symlink_to(expected)
    for text in ("below/labels.csv", str(expected), " below/labels.csv\n", "below/../link.csv"):
        assert training.from_request(text) == expected


def test_sql_is_left_as_it_is() -> None:
    assert training.from_request("SELECT 1") == "SELECT 1"


@pytest.mark.parametrize(
    "text",
    [
        "{0}/file.csv",
        "{0}/file.parquet",
        "../../{1}/file.csv",
        "below/../../../{1}/file.csv",
        "file://{0}/file.csv",
        "s3://bucket/file.csv",
        "https://host/file.csv",
        "~/file.csv",
        "link.csv",
        "linked/file.csv",
        "dangling.csv",
        "loop.csv",
        "nowhere.csv",
        "*.csv",
        "b[e]low/labels.csv",
        "{0}/file.CSV",
        "../../{1}/file.Parquet",
        "folder.parquet",
        "a\0.csv",
        ".csv",
        "a" * 5000 + ".csv",
        "/proc/self/environ/../../../{0}/file.csv",
        "/dev/stdin/.csv",
    ],
)
def test_any_other_path_is_refused_alike_whether_or_not_it_is_there(folder: Path, secret: Path, text: str) -> None:
    (folder / "link.csv").symlink_to(secret / "file.csv")
    (folder / "linked").symlink_to(secret)
    (folder / "dangling.csv").symlink_to(secret / "nowhere.csv")
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    (folder / "folder.parquet").mkdir()
    with pytest.raises(
        LabelError, match=r"and there is no such file in the folder of labels, .*MILLRACE_LABELS moves it"
    ) as caught:
        training.from_request(text.format(secret, secret.name))
    assert SECRET not in str(caught.value)


def test_the_folder_itself_may_be_moved_and_be_a_link(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "elsewhere"
    real.mkdir()
    (real / "labels.csv").write_text("guest_id\n1\n")
    (tmp_path / "linked").symlink_to(real)
    monkeypatch.setenv("MILLRACE_LABELS", str(tmp_path / "linked"))
    assert training.from_request("labels.csv") == real / "labels.csv"
