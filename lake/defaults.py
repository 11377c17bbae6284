"""Defaults and names of settings, which `lake.settings` reads and `lake.variables` declares."""

import re
from pathlib import Path
from typing import Literal, get_args

CHECKOUT = Path(__file__).resolve().parent.parent
ENGINE, ONLINE = "sail", "sqlite"
SPARK_MASTER, SPARK_PROFILE = "local[*]", "cpu"
Counter = Literal["auto", "duckdb", "cudf"]
COUNTS: tuple[str, ...] = get_args(Counter)
JOINS = (*COUNTS, "spark")
REFUSE, ALLOW = "refuse", "allow"
SIMPLE, FAB = "simple", "fab"
LOOPBACK = "127.0.0.1"
AIRFLOW_PORT, FEATURES_PORT, ENGINE_PORT, HEALTH_PORT, BROKER_PORT = 8080, 6566, 15002, 8974, 9092
START_SECONDS = 1800
STREAM_SECONDS, EVENTS_SECONDS = 2.0, 2.0
STOP_SECONDS = 25
"""Kubernetes kills after 30 s, and others take a scheduler for dead that has been silent for 30 s."""
HOST = re.compile(r"(?P<name>\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9_-]+(?:\.[a-zA-Z0-9_-]+)*)\.?(?::\d{1,5})?")
"""A host name or address, with a port or without."""
LAKE_FORMAT = 1
"""Version of the lake's own files (format marker, commit metadata, releases). A lake with a higher one is refused."""


class SettingError(ValueError):
    """An environment variable has a value that it cannot have; the message says which it may have."""
