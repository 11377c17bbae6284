"""The whole sample after one run, against the oracle and against counts that DuckDB takes from the package's own
files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from contracts import catalog
from contracts.model import Column, Layer, Table
from contracts.report import UNCHANGED, RowAccount
from grocery.tests import oracle
from lake import delta, release, settings
from millrace import pipeline
from tests.landing import versions

pytestmark = pytest.mark.usefixtures("year")

ANSWERS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "customer_activity": oracle.customer_activity,
    "product_popularity": oracle.product_popularity,
    "customer_product": oracle.customer_product,
    "customer_profile": oracle.customer_profile,
}
WINDOWED = tuple(oracle.WINDOWS)
START, END = str(oracle.START), str(oracle.END)
LAST = pd.Timestamp(END, tz="UTC")
"""The newest midnight that is known, the horizon."""
SOURCES = {"redemptions": "coupon_redemptions"}
"""Our table -> the package's file, where the names differ."""
MONEY = ("sales_value", "retail_disc", "coupon_disc", "coupon_match_disc")


@pytest.fixture
def con(year: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB with a view over each table of the lake (`silver_transactions`) and each file of the package
    (`raw_transactions`).
    """
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table in catalog.tables():
            connection.execute(f"CREATE VIEW {table.layer}_{table.name} AS FROM read_parquet({_files(table)})")
        for table in catalog.tables(Layer.BRONZE):
            connection.execute(
                f"CREATE VIEW raw_{table.name} AS FROM"
                f" read_parquet('{oracle.DATA}/{SOURCES.get(table.name, table.name)}.parquet')"
            )
        yield connection


def _files(table: Table) -> list[str]:
    return DeltaTable(str(settings.table_path(table.qualified))).file_uris()


def _one(con: duckdb.DuckDBPyConnection, sql: str) -> Any:
    [[value]] = con.execute(sql).fetchall()
    return value


def _gold(con: duckdb.DuckDBPyConnection, view: str, asked: pd.DataFrame) -> pa.Table:
    """The rows of the asked entities."""
    keys = ", ".join(oracle.KEYS[view])
    con.register(
        "asked_keys", pa.Table.from_pandas(asked[list(oracle.KEYS[view])].drop_duplicates(), preserve_index=False)
    )
    return con.sql(f"FROM gold_{view} SEMI JOIN asked_keys USING ({keys})").to_arrow_table()


# --- gold


@pytest.mark.parametrize("view", WINDOWED)
@pytest.mark.parametrize("seed", [1, 20])
def test_features_are_right_at_random_midnights(con: duckdb.DuckDBPyConnection, view: str, seed: int) -> None:
    asked = oracle.sample(view, 600, seed)
    actual = oracle.as_of(_gold(con, view, asked), asked)
    assert 100 < len(actual) < len(asked), (
        "the sample must hold answers, and entities asked for before their first purchase"
    )
    assert oracle.differences(view, ANSWERS[view](asked), actual).empty


@pytest.mark.parametrize("view", WINDOWED)
def test_features_are_right_around_every_midnight_of_a_few_entities(con: duckdb.DuckDBPyConnection, view: str) -> None:
    """The midnights at which something moves, and the idle ones before and after."""
    few = oracle.sample(view, 6, 7)[[*oracle.KEYS[view]]]
    midnights = pd.DataFrame({"event_timestamp": pd.date_range(START, END, tz="UTC", unit="us")})
    asked = few.drop_duplicates().merge(midnights, how="cross")
    gold = _gold(con, view, asked)
    idle = len(
        asked.merge(gold.to_pandas(), how="left", indicator=True, on=[*oracle.KEYS[view], "event_timestamp"]).query(
            "_merge == 'left_only'"
        )
    )
    assert idle > 100
    assert oracle.differences(view, ANSWERS[view](asked), oracle.as_of(gold, asked)).empty


@pytest.mark.parametrize("view", WINDOWED)
def test_features_are_right_at_the_last_midnight(con: duckdb.DuckDBPyConnection, view: str) -> None:
    """Among them entities that have not bought for longer than their longest window: those are 0."""
    asked = oracle.sample(view, 3000, 3).assign(event_timestamp=LAST).drop_duplicates(ignore_index=True)
    actual = oracle.as_of(_gold(con, view, asked), asked)
    counted = {"customer_product": "purchases", "customer_activity": "baskets"}.get(view, "buyers")
    longest = f"{counted}_{max(oracle.WINDOWS[view])}d"
    assert (actual[longest] == 0).sum() > 10
    assert (actual[longest] > 0).sum() > 10
    assert oracle.differences(view, ANSWERS[view](asked), actual).empty


def test_profiles_are_known_from_their_snapshot_on(con: duckdb.DuckDBPyConnection) -> None:
    """A snapshot of a date is the state at its midnight; the instant before, nothing was known."""
    everyone = con.sql("SELECT DISTINCT household_id AS customer_id FROM raw_transactions ORDER BY ALL").df()
    moments = [pd.Timestamp(START, tz="UTC") - timedelta(microseconds=1), pd.Timestamp(START, tz="UTC"), LAST]
    asked = everyone.merge(pd.DataFrame({"event_timestamp": moments}), how="cross")
    asked["event_timestamp"] = asked["event_timestamp"].dt.as_unit("us")
    expected = oracle.customer_profile(asked)
    assert len(expected) == 2 * _one(
        con, "SELECT count(*) FROM raw_demographics SEMI JOIN raw_transactions USING (household_id)"
    )
    assert oracle.differences(
        "customer_profile", expected, oracle.as_of(_gold(con, "customer_profile", asked), asked)
    ).empty


@pytest.mark.parametrize("view", WINDOWED)
def test_rows_are_at_the_midnights_at_which_a_window_changes_and_no_others(
    con: duckdb.DuckDBPyConnection, view: str
) -> None:
    expected = oracle.rows(view)
    con.register("expected", pa.Table.from_pandas(expected, preserve_index=False))
    on = ", ".join((*oracle.KEYS[view], "event_timestamp"))
    missing = _one(con, f"SELECT count(*) FROM expected ANTI JOIN gold_{view} USING ({on})")
    unexpected = _one(con, f"SELECT count(*) FROM gold_{view} ANTI JOIN expected USING ({on})")
    assert (missing, unexpected) == (0, 0)
    assert _one(con, f"SELECT count(*) FROM gold_{view}") == len(expected)


def test_the_oracle_counts_what_the_hand_written_script_counted() -> None:
    assert oracle.expected_row_counts() == {
        "customer_activity": 329_409,
        "product_popularity": 2_357_263,
        "customer_product": 2_555_587,
    }


# --- silver and bronze against the package's files


DISTINCT = {
    "transactions": "basket_id, product_id",
    "promotions": "product_id, store_id, week, display_location, mailer_location",
    "products": "product_id",
    "customers": "household_id",
    "campaigns": "campaign_id, household_id",
    "coupons": "coupon_upc, product_id, campaign_id",
    "redemptions": "household_id, coupon_upc, campaign_id, redemption_date",
}
"""Silver table -> what makes a row of its source one row, in the source's own names."""


def _raw(name: str) -> str:
    return {"customers": "raw_demographics"}.get(name, f"raw_{name}")


@pytest.mark.parametrize("table", catalog.tables(Layer.BRONZE), ids=lambda table: table.name)
def test_bronze_holds_every_row_of_the_source_once(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    rows = _one(con, f"SELECT count(*) FROM raw_{table.name}")
    assert _one(con, f"SELECT count(*) FROM bronze_{table.name}") == rows
    assert _account(table) == RowAccount(rows, rows, 0, 0)
    ours = ", ".join(column.name for column in table.columns if not column.name.startswith("_"))
    theirs = ", ".join(_as_in_bronze(column) for column in table.columns if not column.name.startswith("_"))
    sums = [
        _one(con, f"SELECT sum(hash({ours})::HUGEINT) FROM ({sql})")
        for sql in (f"FROM bronze_{table.name}", f"SELECT {theirs} FROM raw_{table.name}")
    ]
    assert sums[0] == sums[1], "the same number of rows, but not the same rows"


def _as_in_bronze(column: Column) -> str:
    """Naive timestamps are UTC."""
    return f"({column.name} AT TIME ZONE 'UTC') AS {column.name}" if column.type.spark == "timestamp" else column.name


@pytest.mark.parametrize("name", DISTINCT)
def test_silver_holds_every_key_of_the_source_once(con: duckdb.DuckDBPyConnection, name: str) -> None:
    rows = _one(con, f"SELECT count(*) FROM {_raw(name)}")
    keys = _one(con, f"SELECT count(*) FROM (SELECT DISTINCT {DISTINCT[name]} FROM {_raw(name)})")
    table = catalog.table(f"silver.{name}")
    assert _one(con, f"SELECT count(*) FROM silver_{name}") == keys
    assert _one(con, f"SELECT count(*) FROM (SELECT DISTINCT {', '.join(table.key)} FROM silver_{name})") == keys
    assert _account(table) == RowAccount(rows, keys, 0, rows - keys)


def test_the_accounts_that_the_design_names() -> None:
    assert _account(catalog.table("silver.transactions")) == RowAccount(1_469_307, 1_469_307, 0, 0)
    assert _account(catalog.table("silver.promotions")) == RowAccount(20_940_529, 20_940_529, 0, 0)
    assert _account(catalog.table("silver.coupons")) == RowAccount(116_204, 111_332, 0, 4_872)
    assert [name for name in versions() if name.startswith("quarantine.")] == []


def test_unknown_products_and_zero_quantities_are_warnings_that_say_how_many(con: duckdb.DuckDBPyConnection) -> None:
    unknown = _one(con, "SELECT count(*) FROM raw_transactions ANTI JOIN raw_products USING (product_id)")
    nothing = _one(con, "SELECT count(*) FROM raw_transactions WHERE quantity = 0")
    assert (unknown, nothing) == (4_836, 8_869)
    assert _failed("silver.transactions") == {
        "Fails when product_id is not in silver.products": unknown,
        "Fails when quantity is 0": nothing,
    }


def _account(table: Table) -> RowAccount:
    """What the table's only commit says about its rows."""
    state = delta.last_commit(delta.open_table(table.qualified))
    assert state is not None
    return RowAccount(**state.account)


def _failed(qualified: str) -> dict[str, int]:
    """The expectations that failed in the run's audit, each with its number of rows; all must be warnings."""
    [path] = (settings.home() / "data_docs" / "results").glob(f"*/{qualified}.json")
    failed = [result for result in json.loads(path.read_text())["results"] if not result["success"]]
    assert {result["expectation_config"]["severity"] for result in failed} <= {"warning"}
    return {result["expectation_config"]["notes"]: result["result"]["unexpected_count"] for result in failed}


def test_money_is_exact_from_silver_on(con: duckdb.DuckDBPyConnection) -> None:
    """The sums equal those of the raw doubles, each rounded to cents on its decimal text."""
    raw = con.execute(
        f"SELECT {', '.join(f'sum(CAST(CAST({name} AS VARCHAR) AS DECIMAL(12, 2)))' for name in MONEY)} FROM"
        " raw_transactions"
    ).fetchone()
    silver = con.execute(f"SELECT {', '.join(f'sum({name})' for name in MONEY)} FROM silver_transactions").fetchone()
    assert raw == silver
    assert all(isinstance(amount, Decimal) and amount > 0 for amount in silver or ())
    for layer in (Layer.SILVER, Layer.GOLD):
        for table in catalog.tables(layer):
            kinds = dict(
                con.execute(f"SELECT column_name, column_type FROM (DESCRIBE {layer}_{table.name})").fetchall()
            )
            doubles = {name for name, kind in kinds.items() if kind in ("DOUBLE", "FLOAT")}
            assert all("_share_" in name for name in doubles), f"{table.qualified}: {doubles}"


def test_instants_are_the_source_s_read_as_utc(con: duckdb.DuckDBPyConnection) -> None:
    joined = "silver_transactions JOIN raw_transactions USING (basket_id, product_id)"
    assert (
        _one(con, f"SELECT count(*) FROM {joined} WHERE transaction_at = transaction_timestamp AT TIME ZONE 'UTC'")
        == 1_469_307
    )


@pytest.mark.parametrize("table", catalog.tables(Layer.BRONZE), ids=lambda table: table.name)
def test_bronze_says_of_each_row_from_which_file_it_came_and_when(
    con: duckdb.DuckDBPyConnection, year: Path, table: Table
) -> None:
    landed = year / "landing"
    found = con.execute(
        f"SELECT _file, _file_hash, _landed_date, count(*), min(_loaded_at), max(_loaded_at) FROM bronze_{table.name}"
        " GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    assert [row[0] for row in found] == sorted(
        str(path.relative_to(landed)) for path in (landed / table.name).rglob("*.*")
    )
    for name, _, day, rows, first, last in found:
        path = landed / name
        assert name.split("/")[:2] == [table.name, str(day)]
        assert rows == (
            pq.read_metadata(path).num_rows if path.suffix == ".parquet" else len(path.read_text().splitlines()) - 1
        )
        assert first == last
        assert datetime.fromtimestamp(path.stat().st_mtime, UTC) <= first <= datetime.now(UTC)
    for name, digest, *_ in found[:: max(1, len(found) // 5)]:
        assert hashlib.sha256((landed / name).read_bytes()).hexdigest() == digest


# --- tables against their contracts


@pytest.mark.parametrize("table", catalog.tables(), ids=lambda table: table.qualified)
def test_a_delta_table_is_as_its_contract_says(table: Table) -> None:
    found = DeltaTable(str(settings.table_path(table.qualified)))
    fields = {field["name"]: field for field in json.loads(found.schema().to_json())["fields"]}
    assert list(fields) == list(table.column_names)
    for column in table.columns:
        field = fields[column.name]
        assert field["type"] == {"bigint": "long"}.get(column.type.spark, column.type.spark)
        assert field["nullable"] is not column.required
        assert field["metadata"]["comment"] == (f"{column.doc} [{column.unit}]" if column.unit else column.doc)
        assert field["metadata"]["pii"] == column.pii.value
    assert found.metadata().name == table.qualified
    assert {table.doc, table.grain, table.owner} == {
        part for part in (table.doc, table.grain, table.owner) if part in found.metadata().description
    }


@pytest.mark.parametrize("table", catalog.tables(), ids=lambda table: table.qualified)
def test_data_files_hold_what_the_contract_and_the_log_say(con: duckdb.DuckDBPyConnection, table: Table) -> None:
    """No NULL in a required column; keys are unique; the log's row counts are true."""
    found = DeltaTable(str(settings.table_path(table.qualified)))
    counts = {
        name: _one(con, f"SELECT count(*) FROM {table.layer}_{table.name} WHERE {name} IS NULL")
        for name in _required(table)
    }
    assert counts == dict.fromkeys(_required(table), 0)
    rows = _one(con, f"SELECT count(*) FROM {table.layer}_{table.name}")
    actions = pa.table(found.get_add_actions(flatten=True)).to_pylist()
    assert sum(action["num_records"] for action in actions) == rows > 0
    if table.key and rows < 5_000_000:
        assert (
            _one(con, f"SELECT count(*) FROM (SELECT DISTINCT {', '.join(table.key)} FROM {table.layer}_{table.name})")
            == rows
        )
    if table.time_column:
        low, high = con.execute(
            f"SELECT min({table.time_column}), max({table.time_column}) FROM {table.layer}_{table.name}"
        ).fetchall()[0]
        extent = delta.extent(found, table)
        assert extent is not None
        assert (extent.start, extent.end) == (_day(low), _day(high) + timedelta(days=1))


def _required(table: Table) -> list[str]:
    return [column.name for column in table.columns if column.required]


def _day(moment: date | datetime) -> date:
    return moment.astimezone(UTC).date() if isinstance(moment, datetime) else moment


# --- a rerun


def test_a_rerun_of_the_year_changes_nothing(year: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a copy, so that the others' home stays as it is; the data files are shared by links, the logs and releases are
    not.
    """
    shutil.copytree(year / "landing", tmp_path / "landing", copy_function=_link)
    shutil.copytree(year / "lake", tmp_path / "lake", copy_function=_link)
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    before, files = versions(), _tree(tmp_path / "lake")
    reports = pipeline.run_all(START, END, "again")
    assert {report.table: report.status for report in reports} == {
        table.qualified: UNCHANGED for table in catalog.tables()
    }
    assert {report.table: report.version for report in reports} == before == versions()
    assert {report.table: report.account for report in reports} == {
        table.qualified: _account(table) for table in catalog.tables()
    }
    assert release.numbers() == [1]
    assert _tree(tmp_path / "lake") == files


def _link(source: str, target: str) -> str:
    if source.endswith(".parquet"):
        Path(target).hardlink_to(source)
    else:
        shutil.copy2(source, target)
    return target


def _tree(root: Path) -> dict[str, int]:
    """Every file of the lake but the locks, with its size."""
    found = (path for path in root.rglob("*") if path.is_file() and "_locks" not in path.parts)
    return {str(path.relative_to(root)): path.stat().st_size for path in found}


# --- features through Feast


@pytest.fixture
def store(year: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from feast import FeatureStore

    monkeypatch.chdir(settings.CHECKOUT)
    return FeatureStore("features/feast_repo")


NOON = datetime.combine(date.fromisoformat(END), time(12), UTC)
RECENCY = {
    "days_since_last_basket": "last_basket_at",
    "days_since_last_purchase": "last_purchased_at",
    "days_since_memory_began": "memory_began_at",
}


def _asked(size: int, seed: int, at: pd.Timestamp | None = None) -> pd.DataFrame:
    """Pairs that were bought at some time, and one customer and one product that never were."""
    asked = oracle.sample("customer_product", size, seed)
    strangers = pd.DataFrame(
        {"customer_id": [999_999, 1], "product_id": [819_063, 1], "event_timestamp": asked["event_timestamp"][:2]}
    )
    asked = pd.concat([asked, strangers], ignore_index=True)
    return (asked.assign(event_timestamp=at) if at else asked).drop_duplicates(ignore_index=True)


def _expected(asked: pd.DataFrame) -> dict[str, list[Any]]:
    """Each feature of the service, in the order of `asked`, None where the oracle has no row; money and shares as
    doubles.
    """
    joined = asked
    for view, answer in ANSWERS.items():
        keys = [*oracle.KEYS[view], "event_timestamp"]
        joined = joined.merge(answer(asked[keys].drop_duplicates()), how="left", on=keys)
    assert len(joined) == len(asked)
    return {name: [_plain(value) for value in joined[name]] for name in joined.columns if name not in asked.columns}


def _plain(value: Any) -> Any:
    if value is None or value is pd.NaT or value != value:
        return None
    if isinstance(value, datetime):
        return pd.Timestamp(value).tz_convert("UTC").floor("s")
    return value if isinstance(value, str) else float(value)


def _on_demand(expected: dict[str, list[Any]]) -> dict[str, list[float | None]]:
    """The features computed from the request's time, from the instants and weights that are expected."""
    days = {
        name: [None if at is None else (NOON - at).total_seconds() / 86_400 for at in expected[moment]]
        for name, moment in RECENCY.items()
    }
    weights = zip(expected["memory_weight"], days["days_since_last_purchase"], strict=True)
    return days | {
        "decayed_purchases": [
            None if weight is None or ago is None else weight / 2**20 * 2 ** (-ago / 60) for weight, ago in weights
        ]
    }


def test_online_features_are_the_oracle_s_at_the_horizon(store: Any) -> None:
    """Every feature of `recommendation_v1`, whole seconds of instants, for pairs of which many have not been bought for
    90 days.
    """
    asked = _asked(400, 11, LAST)
    entities = [
        {"customer_id": int(row.customer_id), "product_id": int(row.product_id), "request_time": NOON}
        for row in asked.itertuples()
    ]
    served = store.get_online_features(store.get_feature_service("recommendation_v1"), entities).to_dict()
    expected = _expected(asked)
    expected |= _on_demand(expected)
    assert set(served) - {"customer_id", "product_id", "request_time"} == set(expected)
    for name, values in expected.items():
        assert [_plain(value) for value in served[name]] == values, name
    assert sum(value == 0 for value in served["purchases_90d"]) > 20
    assert None in served["spend_7d"]
    assert None in served["units_7d"]


def test_historical_features_are_the_oracle_s(store: Any) -> None:
    asked = pd.concat([_asked(400, 12), _asked(100, 13, LAST)], ignore_index=True).drop_duplicates(ignore_index=True)
    labels = asked.assign(request_time=pd.Timestamp(NOON), label=range(len(asked)))
    found = (
        store.get_historical_features(labels, store.get_feature_service("recommendation_v1"))
        .to_df()
        .sort_values("label")
    )
    assert found["label"].tolist() == labels["label"].tolist()
    expected = _expected(asked)
    expected |= _on_demand(expected)
    assert set(found.columns) - set(labels.columns) == set(expected)
    for name, values in expected.items():
        assert [_plain(value) for value in found[name]] == values, name
    assert sum(value is None for value in expected["purchases_90d"]) > 20, (
        "pairs must be asked for before their first purchase, too"
    )


def test_a_customer_s_value_does_not_need_a_product(store: Any) -> None:
    customers = (
        oracle.sample("customer_activity", 50, 5).assign(event_timestamp=LAST).drop_duplicates(ignore_index=True)
    )
    served = store.get_online_features(
        store.get_feature_service("customer_value_v1"),
        [{"customer_id": int(customer)} for customer in customers["customer_id"]],
    ).to_dict()
    activity = oracle.customer_activity(customers).set_index("customer_id").loc[customers["customer_id"]]
    assert served["spend_90d"] == [float(value) for value in activity["spend_90d"]]
    assert served["baskets_7d"] == activity["baskets_7d"].tolist()


# --- features at instants


def _fraud_expected(asked: pd.DataFrame) -> dict[str, list[Any]]:
    """The features of `fraud_v1`, in the order of `asked`, which has `line_amount`."""
    velocity, store = oracle.customer_velocity(asked), oracle.customer_store(asked)
    joined = asked.merge(velocity, how="left", on=["customer_id", "event_timestamp"])
    joined = joined.merge(store, how="left", on=["customer_id", "store_id", "event_timestamp"])
    expected = {name: [_plain(value) for value in joined[name]] for name in joined if name not in asked}
    means = zip(asked["line_amount"], expected["line_mean_90d"], strict=True)
    expected["line_to_mean_90d"] = [amount / mean if mean else None for amount, mean in means]
    expected["is_first_in_store"] = [float(last is None) for last in expected["last_in_store_at"]]
    return expected


def test_fraud_features_are_the_oracle_s_at_random_instants_and_borders_of_windows(store: Any) -> None:
    asked = oracle.moments(1500, 3)
    asked["line_amount"] = [float(n % 70) for n in range(len(asked))]
    found = store.get_historical_features(
        asked.assign(label=range(len(asked))), store.get_feature_service("fraud_v1")
    ).to_df()
    found, expected = found.sort_values("label"), _fraud_expected(asked)
    assert set(found.columns) - set(asked.columns) - {"label"} == set(expected)
    for name, values in expected.items():
        assert [_plain(value) for value in found[name]] == values, name
    assert 100 < sum(expected["is_first_in_store"]) < 1000
    assert sum((count or 0) > 1 for count in expected["purchases_24h"]) > 100


def test_fraud_features_online_are_the_oracle_s_at_the_last_instants(store: Any) -> None:
    asked = oracle.moments(400, 4, start=date(2017, 12, 31))
    asked["event_timestamp"] = asked["event_timestamp"].dt.floor("s")
    asked["line_amount"] = 5.0
    entities = [
        {
            "customer_id": int(row.customer_id),
            "store_id": int(row.store_id),
            "line_amount": row.line_amount,
            "request_time": row.event_timestamp.to_pydatetime(),
        }
        for row in asked.itertuples()
    ]
    served = store.get_online_features(store.get_feature_service("fraud_v1"), entities).to_dict()
    for name, values in _fraud_expected(asked).items():
        assert [_plain(value) for value in served[name]] == values, name
