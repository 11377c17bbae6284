"""Typed access to the settings that Python code reads. The list of all of them is in `lake.variables`.

Each call reads the environment, so a change of `os.environ` counts at once. Unset variables cost a dictionary look-up;
Pydantic is imported only when a variable is set that has values to refuse.
"""

import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

from lake import secret_files, storage
from lake.defaults import (
    AIRFLOW_PORT,
    ALLOW,
    BROKER_PORT,
    CHECKOUT,
    COUNTS,
    ENGINE,
    ENGINE_PORT,
    EVENTS_SECONDS,
    FAB,
    FEATURES_PORT,
    HEALTH_PORT,
    HOST,
    JOINS,
    LAKE_FORMAT,
    LOOPBACK,
    ONLINE,
    REFUSE,
    SIMPLE,
    SPARK_MASTER,
    SPARK_PROFILE,
    START_SECONDS,
    STOP_SECONDS,
    STREAM_SECONDS,
    Counter,
    SettingError,
)

__all__ = [
    "AIRFLOW_PORT",
    "ALLOW",
    "BROKER_PORT",
    "CHECKOUT",
    "COUNTS",
    "Counter",
    "ENGINE",
    "ENGINE_PORT",
    "EVENTS_SECONDS",
    "FAB",
    "FEATURES_PORT",
    "HEALTH_PORT",
    "HOST",
    "JOINS",
    "LAKE_FORMAT",
    "LOOPBACK",
    "ONLINE",
    "REFUSE",
    "SIMPLE",
    "SPARK_MASTER",
    "SPARK_PROFILE",
    "START_SECONDS",
    "STOP_SECONDS",
    "STREAM_SECONDS",
    "SettingError",
]

T = TypeVar("T")


@lru_cache(maxsize=256)
def parse(name: str, text: str) -> Any:
    """The typed value of a variable's text, as `lake.variables` declares it; SettingError if it may not have it."""
    from lake import variables

    return variables.variable(name).parse(text)


def _value(name: str, default: T) -> T:
    text = os.environ.get(name)
    return cast(T, parse(name, text)) if text else default


def version() -> str:
    """The version of Millrace, such as `0.1.0`."""
    return str(tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"])


def home() -> Path:
    """`MILLRACE_HOME`, or `.millrace` in the checkout: everything that a run writes lies below it."""
    return storage.absolute(os.environ.get("MILLRACE_HOME") or CHECKOUT / ".millrace")


def lake() -> Path:
    """`MILLRACE_LAKE`, or `lake` in the home: the root of all Delta tables, a folder or `s3://bucket/path`."""
    return storage.to_path(os.environ.get("MILLRACE_LAKE") or str(home() / "lake"))


def landing() -> Path:
    """`MILLRACE_LANDING`, or `landing` in the home: where the shop drops its files, a folder or `s3://bucket/path`."""
    return storage.to_path(os.environ.get("MILLRACE_LANDING") or str(home() / "landing"))


def labels() -> Path:
    """`MILLRACE_LABELS`, or `labels` in the home: the only folder from which labels are read whose path came over a
    network.
    """
    return storage.absolute(_value("MILLRACE_LABELS", home() / "labels"))


def lineage() -> Path:
    """Folder of the OpenLineage events, one JSON a line."""
    return home() / "lineage"


def jars() -> Path:
    """`MILLRACE_JARS`, or `jars` in the home: where Spark's jars lie."""
    return Path(os.environ.get("MILLRACE_JARS") or home() / "jars")


def engine() -> str:
    """`MILLRACE_ENGINE`: `sail` (default), `spark` (a Spark of this machine), or a Spark Connect URL
    `sc://host:port`.
    """
    return secret_files.get("MILLRACE_ENGINE") or ENGINE


def join() -> str:
    """`MILLRACE_JOIN`: what joins training sets and profiles tables: `auto` (default), `duckdb`, `cudf` (on the GPU),
    or `spark`, which only joins.
    """
    return _value("MILLRACE_JOIN", JOINS[0])


def beyond_horizon() -> str:
    """`MILLRACE_BEYOND_HORIZON`: what becomes of labels after a release's horizon; `refuse` (default) or `allow`."""
    return _value("MILLRACE_BEYOND_HORIZON", REFUSE)


def release() -> int | None:
    """`MILLRACE_RELEASE`: the number of the release that training sets read; None for the newest."""
    return _value("MILLRACE_RELEASE", cast("int | None", None))


def online() -> str:
    """`MILLRACE_ONLINE`: where features are served from; `sqlite` (default: files in the home), `redis://...` or
    `postgresql://...`. It may hold a password.
    """
    return secret_files.get("MILLRACE_ONLINE") or ONLINE


def registry() -> str:
    """`MILLRACE_REGISTRY`: the `postgresql://user@host:port/database` that holds Feast's registry, perhaps with a
    password.

    Empty (default): a file in the home.
    """
    return secret_files.get("MILLRACE_REGISTRY") or ""


def kafka() -> str:
    """`MILLRACE_KAFKA`: the brokers, `host:port,host:port`; empty without."""
    return ",".join(_value("MILLRACE_KAFKA", cast("tuple[str, ...]", ())))


def broker_port() -> int:
    """`MILLRACE_BROKER_PORT`: the port of the embedded broker, 9092 by default."""
    return _value("MILLRACE_BROKER_PORT", BROKER_PORT)


def kafka_conf() -> dict[str, str]:
    """`MILLRACE_KAFKA_CONF`: more settings of Kafka clients. It may hold passwords."""
    text = secret_files.get("MILLRACE_KAFKA_CONF")
    return dict(parse("MILLRACE_KAFKA_CONF", text)) if text else {}


def stream_seconds() -> float:
    """`MILLRACE_STREAM_SECONDS`: how long messages are collected before they are committed to bronze."""
    return float(_value("MILLRACE_STREAM_SECONDS", STREAM_SECONDS))


def stream_reader() -> str:
    """`MILLRACE_STREAM_READER`: who reads topics for the lake writer, `python` or `spark`."""
    return _value("MILLRACE_STREAM_READER", "python")


def source(variable: str) -> str:
    """The URL of a database to pull from, `MILLRACE_SOURCE_...`; empty where it is unset. It may hold a password."""
    text = secret_files.get(variable)
    return str(parse(variable, text).get_secret_value()) if text else ""


def spark_memory() -> str | None:
    """`MILLRACE_SPARK_MEMORY`: the heap of the local Spark, such as `4g`; None for a share of the machine's memory."""
    return _value("MILLRACE_SPARK_MEMORY", cast("str | None", None))


def spark_master() -> str:
    """`MILLRACE_SPARK_MASTER`: the master of the local Spark."""
    return os.environ.get("MILLRACE_SPARK_MASTER") or SPARK_MASTER


def spark_profile() -> str:
    """`MILLRACE_SPARK_PROFILE`: `cpu`, or `gpu` for RAPIDS."""
    return _value("MILLRACE_SPARK_PROFILE", SPARK_PROFILE)


def spark_conf() -> dict[str, str]:
    """`MILLRACE_SPARK_CONF`: more settings of the local Spark."""
    return dict(_value("MILLRACE_SPARK_CONF", cast("tuple[tuple[str, str], ...]", ())))


def bind() -> str:
    """`MILLRACE_BIND`: the address that components listen on; `127.0.0.1` (default), or `0.0.0.0` in a container."""
    return str(_value("MILLRACE_BIND", cast(Any, LOOPBACK)))


def airflow_port() -> int:
    """`MILLRACE_PORT`: where Airflow's UI and API listen."""
    return _value("MILLRACE_PORT", AIRFLOW_PORT)


def features_port() -> int:
    """`MILLRACE_FEATURES_PORT`: where the feature server listens; by default Feast's own port, or the port after
    Airflow's if that was moved.
    """
    airflow = airflow_port()
    return _value("MILLRACE_FEATURES_PORT", FEATURES_PORT if airflow == AIRFLOW_PORT else airflow % 65535 + 1)


def engine_port() -> int:
    """`MILLRACE_ENGINE_PORT`: where `millrace start engine` listens."""
    return _value("MILLRACE_ENGINE_PORT", ENGINE_PORT)


def health_port() -> int:
    """`MILLRACE_HEALTH_PORT`: where a component without an HTTP server of its own answers `/live` and `/ready`."""
    return _value("MILLRACE_HEALTH_PORT", HEALTH_PORT)


def start_seconds() -> int:
    """`MILLRACE_START_SECONDS`: how long `make up` and `make demo` wait for Airflow."""
    return _value("MILLRACE_START_SECONDS", START_SECONDS)


def stop_seconds() -> int:
    """`MILLRACE_STOP_SECONDS`: how long a component may take to stop after SIGTERM."""
    return _value("MILLRACE_STOP_SECONDS", STOP_SECONDS)


def auth() -> str:
    """`MILLRACE_AUTH`: `simple` (one administrator, for a machine of one's own) or `fab` (logins with roles in the
    metadata database).
    """
    return _value("MILLRACE_AUTH", SIMPLE)


def is_scheduled() -> bool:
    """`MILLRACE_SCHEDULE`: whether the main DAG runs every day."""
    return _value("MILLRACE_SCHEDULE", "off") == "on"


def starts_on_events() -> bool:
    """`MILLRACE_EVENTS`: whether new data starts the main DAG."""
    return _value("MILLRACE_EVENTS", "off") == "on"


def events_seconds() -> float:
    """`MILLRACE_EVENTS_SECONDS`: how long a landed file must not change before it starts a run."""
    return float(_value("MILLRACE_EVENTS_SECONDS", EVENTS_SECONDS))


def public_url() -> str | None:
    """`MILLRACE_PUBLIC_URL`: where browsers reach Airflow behind a proxy."""
    return _value("MILLRACE_PUBLIC_URL", cast("str | None", None))


def public_features_url() -> str | None:
    """`MILLRACE_PUBLIC_FEATURES_URL`: where clients reach the feature server behind a proxy."""
    return _value("MILLRACE_PUBLIC_FEATURES_URL", cast("str | None", None))


def table_path(qualified: str) -> Path:
    """`silver.transactions` -> `<lake>/silver/transactions`."""
    layer, name = qualified.split(".")
    return lake() / layer / name
