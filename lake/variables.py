"""Every `MILLRACE_*` environment variable, declared once: type, default, what it does and which values it may have.

`lake.settings` reads single variables, and imports this module (Pydantic, 0.15 s) only to check one that is set.
`millrace settings` prints the list, `millrace check` checks all of it, and the tables of docs/settings.md are generated
from it: `python -m lake.variables docs/settings.md`.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, ValidationError
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from lake import bucket, defaults, masking, secret_files, storage
from lake.defaults import SettingError

LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")
PREFIX = "MILLRACE_"
SPARK_KEY = re.compile(r"spark\.[A-Za-z0-9_.-]+")
POSTGRES = ("postgresql", "postgres")
SOURCE_TEMPLATE = "MILLRACE_SOURCE_NAME"
"""Stands in the list for the variables of all databases to pull from."""
BEGIN, END = "<!-- generated: python -m lake.variables docs/settings.md -->", "<!-- end -->"


def _variable_name(field: str) -> str:
    return PREFIX + field.upper()


def _setting(
    default: Any,
    description: str,
    expected: str = "",
    *,
    unset: str | None = None,
    internal: bool = False,
) -> Any:
    """A field: `expected` ends the sentence "Set it to"; `unset` says what a default means that no constant can say."""
    extra: JsonDict = {"expected": expected, "unset": unset, "internal": internal}
    return Field(default, description=description, json_schema_extra=extra)


def _words(text: Any) -> Any:
    return tuple(word.strip() for word in text.split(",") if word.strip()) if isinstance(text, str) else text


def _pairs(text: Any) -> Any:
    """`a=1,b=2` as pairs; a word without `=` stays a tuple of one, which the type refuses."""
    return tuple(tuple(word.split("=", 1)) for word in _words(text)) if isinstance(text, str) else text


def _pairs_or_lines(text: Any) -> Any:
    """`_pairs`, or one pair a line: a value with a comma needs a line of its own."""
    if not isinstance(text, str) or "\n" not in text:
        return _pairs(text)
    return tuple(tuple(line.strip().split("=", 1)) for line in text.splitlines() if line.strip())


def _mask_values(text: str) -> str:
    """`spark.a=1,spark.b=2` as `spark.a=***,spark.b=***`, and `***` for anything else: a comma may be a password's."""
    keys = [key for key, *_ in _pairs(text)]
    return ",".join(f"{key}=***" for key in keys) if all(map(SPARK_KEY.fullmatch, keys)) else "***"


@dataclass(frozen=True)
class _Url:
    """Accepts `scheme://` with a host, or what the scheme allows instead, and the words."""

    schemes: tuple[str, ...]
    words: tuple[str, ...] = ()

    def __call__(self, secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value()
        if text not in self.words and not self._names_server(text):
            raise ValueError("no URL of a server")
        return secret

    def _names_server(self, text: str) -> bool:
        parts, (scheme, separator, _) = urlsplit(text), text.partition("://")
        if not separator or scheme not in self.schemes:
            return False
        if scheme == "unix":
            return bool(parts.path.strip("/"))
        if scheme in POSTGRES:  # libpq takes the host from `?host=`, PGHOST or its default, a socket
            return bool(parts.hostname or parts.path.strip("/") or parts.query)
        return bool(parts.hostname)

    def shown(self, text: str) -> str:
        """The words and the scheme; nothing else, because any part may be a misplaced password."""
        if text in self.words:
            return text
        scheme, separator, _ = text.partition("://")
        return f"{scheme}://***" if separator and scheme in self.schemes else "***"


def _local_folder(path: Path) -> Path:
    if storage.is_remote(str(path).replace(":/", "://", 1)):
        raise ValueError("a bucket")
    return path


POSTGRES_URL = _Url(POSTGRES)
ENGINE_URL = _Url(("sc",), ("sail", "spark"))
ONLINE_URL = _Url(("redis", "rediss", "unix", *POSTGRES), ("sqlite",))
SECRET_URLS = {
    "engine": ENGINE_URL,
    "online": ONLINE_URL,
    "registry": POSTGRES_URL,
    "database": POSTGRES_URL,
    "source_name": POSTGRES_URL,
}
"""By field. Of any other secret nothing is shown."""


def _folder_or_bucket(*schemes: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        scheme, separator, rest = text.partition("://")
        bucket_name, _, prefix = rest.partition("/")
        if separator and not (scheme in schemes and bucket.NAME.fullmatch(bucket_name) and prefix.strip("/")):
            raise ValueError("neither a folder nor s3://bucket/prefix")
        return text

    return check


def _http_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("no URL")  # `port` raises it by itself for one above 65535
    return text


Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[int, Field(ge=1)]
Switch = Literal["on", "off"]
Flag = Literal["0", "1"]
Memory = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*[kKmMgGtT]?$")]
Limit = Annotated[str, StringConstraints(pattern=r"^[1-9]\d*[bkmgBKMG]?[bB]?$")]
Host = Annotated[str, StringConstraints(pattern=f"^(?:{defaults.HOST.pattern})$")]
Hosts = Annotated[tuple[Host, ...], NoDecode, BeforeValidator(_words)]
Postgres = Annotated[SecretStr, AfterValidator(POSTGRES_URL)]
Pairs = Annotated[tuple[tuple[str, str], ...], NoDecode, BeforeValidator(_pairs)]
Lines = Annotated[tuple[tuple[str, str], ...], NoDecode, BeforeValidator(_pairs_or_lines)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Lake = Annotated[str, AfterValidator(_folder_or_bucket(*bucket.SCHEMES))]

PORT = "a port from 1 to 65535"
SECONDS = "a number of seconds, 1 or more"
URL = "a URL such as http://api-server:8080"
LIMIT = "a limit such as 8g or 512m"
LAKE = "a folder or to s3://bucket/path (the key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"


class Section(BaseSettings):
    """Variables that belong together. The class's docstring is the section's heading on the page."""

    model_config = SettingsConfigDict(
        alias_generator=_variable_name,
        case_sensitive=True,
        env_ignore_empty=True,
        extra="ignore",
        validate_assignment=True,
    )

    @classmethod
    def title(cls) -> str:
        """The heading."""
        return (cls.__doc__ or "").partition("\n")[0]


class Paths(Section):
    """Where state lies"""

    home: Path = _setting(
        defaults.CHECKOUT / ".millrace",
        "The folder of all [state](#state)",
        unset="`.millrace` in the checkout",
    )
    project: Path | None = _setting(
        None,
        "The [project](projects.md) whose tables and features are used",
        unset="the nearest folder above the working directory with a `millrace.toml`, else the sample",
    )
    lake: Lake | None = _setting(
        None,
        "The Delta tables: a folder, or [`s3://bucket/path`](engines.md#a-lake-and-a-landing-zone-in-a-bucket)",
        LAKE,
        unset="`$MILLRACE_HOME/lake`",
    )
    landing: Lake | None = _setting(
        None,
        "The landing zone: a folder, or [`s3://bucket/path`](engines.md#a-lake-and-a-landing-zone-in-a-bucket)",
        LAKE,
        unset="`$MILLRACE_HOME/landing`",
    )
    labels: Annotated[Path, AfterValidator(_local_folder)] | None = _setting(
        None,
        "The only folder from which label files may be read [over REST](training.md#labels-as-sql-and-as-files)",
        "a folder, from which alone labels are read",
        unset="`$MILLRACE_HOME/labels`",
    )
    jars: Path | None = _setting(
        None,
        "Where the local Spark's jars are kept, or put by hand on a machine without a network",
        unset="`$MILLRACE_HOME/jars`",
    )


class Engine(Section):
    """What computes"""

    engine: Annotated[SecretStr, AfterValidator(ENGINE_URL)] = _setting(
        SecretStr(defaults.ENGINE),
        "The [engine](engines.md): `sail` runs in the task's process; `spark` is a local Spark (on Java 17 or 21 of the"
        " machine, or on the Java in `.venv`); `sc://host:port` is any Spark Connect server",
        "sail, spark, or a Spark Connect URL such as sc://host:15002",
    )
    spark_memory: Memory | None = _setting(
        None,
        "The heap of the [local Spark](engines.md#settings-of-the-local-spark), such as `4g`",
        "a size such as 4g or 1500m",
        unset="a quarter of the machine's memory, at least 2 GiB",
    )
    spark_master: str = _setting(
        defaults.SPARK_MASTER,
        "The local Spark's master; with `spark://host:7077`, tasks run on that cluster",
    )
    spark_conf: Pairs = _setting(
        (),
        "More settings of the local Spark, `key=value,key=value`; they override ours",
        "key=value pairs, separated by commas",
    )
    spark_profile: Literal["cpu", "gpu"] = _setting(
        defaults.SPARK_PROFILE,
        "`gpu` starts the local Spark with [RAPIDS](engines.md#the-gpu-profile)",
        "cpu or gpu",
    )
    join: Literal["auto", "duckdb", "cudf", "spark"] = _setting(
        defaults.JOINS[0],
        "What joins training sets and profiles tables: [`duckdb` or `cudf`](engines.md#on-one-gpu-in-python),"
        " or [`spark`](engines.md#training-sets-on-a-cluster) for training sets only; `auto` is cuDF where there is a"
        " GPU, else DuckDB",
        f"one of {', '.join(defaults.JOINS)}",
    )


class Features(Section):
    """Features"""

    online: Annotated[SecretStr, AfterValidator(ONLINE_URL)] = _setting(
        SecretStr(defaults.ONLINE),
        "The [online store](features.md#served-from-redis-or-postgresql): files in the home, `redis://host:port/0`, or"
        " `postgresql://user:password@host:port/database`",
        "sqlite, redis://host:port/database or postgresql://user:password@host:port/database",
    )
    registry: Postgres | None = _setting(
        None,
        "The PostgreSQL database of [Feast's registry](shared_state.md#the-registry-in-postgresql),"
        " `postgresql://user@host:port/database`",
        "postgresql://user@host:port/database",
        unset="a file in the home",
    )
    release: Annotated[int | None, Field(ge=1)] = _setting(
        None,
        "The release that training sets read",
        "the number of a release, such as 3",
        unset="the newest",
    )
    beyond_horizon: Literal["refuse", "allow"] = _setting(
        defaults.REFUSE,
        "`allow` accepts labels [after the release's horizon](training.md#labels-after-the-horizon), with a warning",
        "refuse or allow",
    )
    features_port: Port | None = _setting(
        None,
        "The feature server's port. `scripts/compose.sh` also takes a range",
        PORT,
        unset="`6566`, or the port after `MILLRACE_PORT` if that is not 8080",
    )
    features_workers: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = _setting(
        1,
        "[Processes](operations.md#the-feature-server) of the feature server; `auto` is one per core",
        "a number from 1 to 256, or auto for one per core",
    )
    features_hosts: Hosts = _setting(
        (),
        "Host names that the feature server answers to, besides `localhost`, `127.0.0.1` and `[::1]`; comma-separated."
        " List the names under which a proxy reaches it",
        "names or addresses without a scheme, separated by commas, such as features.example.com,10.0.0.5",
    )
    features_writes: Flag = _setting(
        "0",
        "`1` lets holders of the [token](operations.md#the-feature-server) push features over HTTP",
        "1 (allow writes with the token) or 0",
    )
    features_token_file: Path | None = _setting(
        None,
        "The file with that token",
        unset="`$MILLRACE_HOME/feast/write_token`",
    )


class Streams(Section):
    """Streams"""

    kafka: Hosts = _setting(
        (),
        "The Kafka brokers of [topics](streams.md)",
        "host:port, or several of them, separated by commas",
    )
    kafka_conf: Annotated[Lines, Field(repr=False)] = _setting(
        (),
        "More [settings of Kafka clients](streams.md#a-kafka-of-your-own), `key=value,key=value`, in librdkafka's"
        " names, such as `security.protocol=SASL_SSL`",
        "key=value pairs, separated by commas",
    )
    broker_port: Port = _setting(
        defaults.BROKER_PORT, "Port of the [embedded broker](streams.md#try-it) of `make stream`, on loopback", PORT
    )
    stream_seconds: Annotated[float, Field(gt=0)] = _setting(
        defaults.STREAM_SECONDS,
        "How long messages are collected before they are committed to bronze",
        "a number of seconds",
    )
    stream_reader: Literal["python", "spark"] = _setting(
        "python",
        "Who reads topics for the lake writer: its own process, or the [Spark](streams.md#on-a-cluster) that"
        " `MILLRACE_ENGINE` names",
        "`python` or `spark`",
    )


class Databases(Section):
    """Databases

    `NAME` is the connection of a [database](sources.md) in a contract, in capitals: `MILLRACE_SOURCE_SHOP` for `shop`.
    """

    source_name: Postgres | None = _setting(
        None,
        "The PostgreSQL database of the connection, `postgresql://user@host:5432/database`, with all options of libpq",
        "postgresql://user@host:5432/database (the password in it, or in the file that PGPASSFILE names)",
    )


class Components(Section):
    """Airflow and the other components"""

    port: Port = _setting(defaults.AIRFLOW_PORT, "Airflow's port", PORT)
    bind: IPv4Address | IPv6Address = _setting(
        defaults.LOOPBACK,
        "The address that all components listen on; `0.0.0.0` in a container",
        "an address of this machine, such as 127.0.0.1, 0.0.0.0 or ::",
    )
    database: Postgres | None = _setting(
        None,
        "Airflow's [metadata database](components.md#the-database), `postgresql://user@host:5432/database`, with all"
        " options of libpq",
        "postgresql://user@host:5432/database (the password in it, or in the file that PGPASSFILE names)",
        unset="a SQLite file in the home",
    )
    task_logs: Annotated[str, AfterValidator(_folder_or_bucket("s3"))] | None = _setting(
        None,
        "Where task logs are kept: a folder, or `s3://bucket/prefix`, from which every api-server can show them",
        "a folder or to s3://bucket/prefix",
        unset="`$MILLRACE_HOME/logs/tasks`",
    )
    api_url: HttpUrl | None = _setting(
        None,
        "Where schedulers and tasks reach the api-server",
        "the api-server's URL, such as http://api-server:8080",
        unset="`http://127.0.0.1:$MILLRACE_PORT`",
    )
    auth: Literal["simple", "fab"] = _setting(
        defaults.SIMPLE,
        "`simple` has one administrator, `fab` has [logins with roles](components.md#logins) in the metadata database",
        "simple (one administrator) or fab (logins with roles)",
    )
    admin_password: SecretStr | None = _setting(None, "The first administrator's password, with `MILLRACE_AUTH=fab`")
    schedule: Switch = _setting("off", "`on` starts the daily schedule; read when Airflow starts", "on or off")
    events: Switch = _setting(
        "off",
        "`on` starts a run when [files have landed or messages have come](operations.md#runs-that-data-starts); read"
        " when Airflow starts",
        "on or off",
    )
    events_seconds: Annotated[float, Field(gt=0)] = _setting(
        defaults.EVENTS_SECONDS,
        "How long a landed file must not change before it starts a run",
        "a number of seconds",
    )
    start_seconds: Seconds = _setting(
        defaults.START_SECONDS,
        "How long `make up` and `make demo` wait for Airflow; what they started keeps running after that",
        SECONDS,
    )
    stop_seconds: Seconds = _setting(
        defaults.STOP_SECONDS,
        "How long a scheduler, dag-processor or triggerer may take to stop after SIGTERM",
        SECONDS,
    )
    engine_port: Port = _setting(defaults.ENGINE_PORT, "Port of `millrace start engine`", PORT)
    health_port: Port = _setting(
        defaults.HEALTH_PORT,
        "Where components without an HTTP server of their own answer `/live` and `/ready`",
        PORT,
    )
    public_url: HttpUrl | None = _setting(
        None, "Where browsers reach Airflow behind a proxy", URL, unset="the address it listens on"
    )
    public_features_url: HttpUrl | None = _setting(
        None, "Where clients reach the feature server behind a proxy", URL, unset="the address it listens on"
    )
    logs: Path | None = _setting(None, "The folder of the components' logs; set by `make up`", internal=True)
    services_token: str | None = _setting(None, "Marks the processes that `make up` started", internal=True)


class Containers(Section):
    """Images and containers

    Variables of `make images` and `make compose`, that is of the scripts below `scripts/` and of `docker/compose.yaml`.
    """

    secrets: Path | None = _setting(None, "The folder of the stack's secrets", unset="`compose/secrets` in the home")
    code: Path | None = _setting(None, "A checkout whose code the containers run instead of the image's")
    files: Path | None = _setting(None, "A folder of landed files that the containers read instead of the bucket")
    ca: Path | None = _setting(None, "A PEM file with more certificate authorities to trust")
    publish: IPv4Address | IPv6Address = _setting(
        defaults.LOOPBACK, "The address that the stack's ports listen on", "an address, such as 127.0.0.1 or 0.0.0.0"
    )
    compose_project: str = _setting("millrace", "The name of the stack; two on one engine need two names")
    compose_files: str | None = _setting(None, "Compose files of yours, separated by spaces, added last")
    tag: str = _setting("latest", "The tag of the images that `make images` builds")
    image_prefix: str = _setting("millrace", "The first part of their names")
    base_image: str = _setting("debian:bookworm-slim", "The image that all of them build on")
    pipeline_image: str = _setting("millrace/pipeline:latest", "The image of Airflow's components")
    features_image: str = _setting("millrace/features:latest", "The image of the feature server")
    engine_image: str = _setting("millrace/engine:latest", "The image of the engine")
    postgres_image: str = _setting("millrace/postgres:latest", "The image of PostgreSQL")
    redis_image: str = _setting("millrace/redis:latest", "The image of Redis")
    s3_image: str = _setting("millrace/s3:latest", "The image of the S3 gateway")
    postgres: str = _setting("postgres:5432", "Host and port of PostgreSQL in the secrets that are generated")
    redis: str = _setting("redis:6379", "Host and port of Redis in the secrets that are generated")
    postgres_memory: Limit = _setting("1g", "Memory limit of PostgreSQL", LIMIT)
    redis_memory: Limit = _setting("2g", "Memory limit of Redis", LIMIT)
    redis_maxmemory: Limit = _setting("1200mb", "What Redis may hold", LIMIT)
    s3_memory: Limit = _setting("1g", "Memory limit of the S3 gateway", LIMIT)
    engine_memory: Limit = _setting("8g", "Memory limit of the engine", LIMIT)
    migrate_memory: Limit = _setting("1g", "Memory limit of `millrace migrate`", LIMIT)
    api_server_memory: Limit = _setting("2g", "Memory limit of the api-server", LIMIT)
    scheduler_memory: Limit = _setting("8g", "Memory limit of the scheduler with its tasks", LIMIT)
    dag_processor_memory: Limit = _setting("1g", "Memory limit of the dag-processor", LIMIT)
    lake_writer_memory: Limit = _setting("2g", "Memory limit of the lake writer", LIMIT)
    feature_worker_memory: Limit = _setting("1g", "Memory limit of a feature worker", LIMIT)
    triggerer_memory: Limit = _setting("1g", "Memory limit of the triggerer", LIMIT)
    features_memory: Limit = _setting("1g", "Memory limit of a feature server", LIMIT)
    docker_home: Path | None = _setting(
        None, "Where the Docker Engine that `make images` starts keeps its images", unset="`docker` in the home"
    )
    pull_seconds: Seconds = _setting(120, "How long to try to pull the base image before building one", SECONDS)


class Development(Section):
    """Development and tests"""

    venv_seconds: Annotated[float, Field(gt=0)] = _setting(
        10, "How often building `.venv` reports its progress", "a number of seconds"
    )
    test_require_all: str | None = _setting(None, "Fail instead of skip a test whose program is missing")
    test_effort: Annotated[int, Field(ge=1)] = _setting(1, "Multiplies the examples of property tests", "1 or more")
    test_keep: Path | None = _setting(None, "The folder that keeps the containers' stack of `make test-compose`")
    feast: Path | None = _setting(None, "A checkout of Feast, for `bench.feast_suite`")
    openlineage_spec: Path | None = _setting(None, "The `spec` folder of an OpenLineage checkout, to check events by")


SECTIONS: tuple[type[Section], ...] = (Paths, Engine, Features, Streams, Databases, Components, Containers, Development)
OF_A_RUN: tuple[type[Section], ...] = (Paths, Engine, Features, Databases)
"""Sections whose values a run depends on."""


@dataclass(frozen=True)
class Variable:
    """One variable of the list."""

    name: str
    field: str
    section: type[Section]
    info: FieldInfo

    @property
    def description(self) -> str:
        """What it does, in Markdown."""
        return self.info.description or ""

    @property
    def summary(self) -> str:
        """What it does, without markup."""
        return LINK.sub(r"\1", self.description).replace("`", "")

    @property
    def is_secret(self) -> bool:
        """Whether its value may hold a password, so that `NAME_FILE` may name a file with it."""
        return self.name in secret_files.NAMES or bool(secret_files.SOURCE.fullmatch(self.name))

    @property
    def holds_pairs(self) -> bool:
        """Whether its value is `key=value` pairs, of which any value may be a secret."""
        return self.field in ("spark_conf", "kafka_conf")

    @property
    def is_internal(self) -> bool:
        """Whether Millrace sets it for its own processes."""
        return bool(self._extra("internal"))

    @property
    def expected(self) -> str:
        """What it may be set to, to end a sentence."""
        return str(self._extra("expected"))

    @property
    def default(self) -> str:
        """What counts where it is unset, in Markdown."""
        return cast("str | None", self._extra("unset")) or (f"`{self.constant}`" if self.constant else "none")

    @property
    def constant(self) -> str:
        """The default, if it is a constant; else empty."""
        default = self.info.default
        text = default.get_secret_value() if isinstance(default, SecretStr) else default
        return "" if text in (None, ()) else str(text)

    def parse(self, text: str) -> Any:
        """The typed value of a variable's text; SettingError if it may not have it."""
        holder = self.section.model_construct()
        try:
            setattr(holder, self.field, text)
        except ValidationError:
            raise SettingError(self.error(text)) from None
        return getattr(holder, self.field)

    def error(self, text: str) -> str:
        """A sentence that refuses a value. It shows no secret."""
        value = "set to a value that it cannot have" if self.is_secret or self.holds_pairs else repr(self.shown(text))
        default = self.default.replace("`", "")
        unset = "unset it" if default == "none" else f"unset it for the default: {default}"
        return f"{self.name} is {value}. Set it to {self.expected}, or {unset}"

    def problem(self, text: str) -> str:
        """The sentence of `error` for a value that it cannot have; else empty."""
        try:
            if text:
                self.parse(text)
        except SettingError as error:
            return str(error)
        return ""

    def source(self) -> str:
        """Where its value comes from: `default`, `environment`, or the file that `NAME_FILE` named."""
        if not os.environ.get(self.name):
            return "default"
        return str(secret_files.files.get(self.name, "environment"))

    def shown(self, text: str) -> str:
        """A value for people to read: of a secret URL the scheme, of another URL no user, password or options, of pairs
        the keys, of another secret nothing.
        """
        if not text:
            return ""
        if self.is_secret:
            url = SECRET_URLS.get(self.field)
            return url.shown(text) if url else "***"
        return _mask_values(text) if self.holds_pairs else masking.mask_url(text)

    def _extra(self, key: str) -> Any:
        return cast("dict[str, Any]", self.info.json_schema_extra)[key]


@cache
def all_variables() -> dict[str, Variable]:
    """Name -> variable, in the order of the sections."""
    return {
        _variable_name(field): Variable(_variable_name(field), field, section, info)
        for section in SECTIONS
        for field, info in section.model_fields.items()
    }


def source_variables(environment: Mapping[str, str] = os.environ) -> dict[str, Variable]:
    """The variables of databases to pull from that are set, by name."""
    template = all_variables()[SOURCE_TEMPLATE]
    return {name: replace(template, name=name) for name in secret_files.sources(environment)}


def variable(name: str) -> Variable:
    """A variable of the list, or that of a database to pull from."""
    known = all_variables()
    return known[name] if name in known else replace(known[SOURCE_TEMPLATE], name=name)


def problems(sections: tuple[type[Section], ...] = SECTIONS) -> list[str]:
    """A sentence for each variable of these sections that has a value which it cannot have."""
    found = []
    for section in sections:
        try:
            section()
        except ValidationError as error:
            names = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors(include_input=False))
            found += [all_variables()[name].error(os.environ.get(name, "")) for name in names]
    if Databases in sections:
        others = (name for name in source_variables() if name != SOURCE_TEMPLATE)
        found += filter(None, (variable(name).problem(os.environ.get(name, "")) for name in others))
    return found


def unknown(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Each `MILLRACE_*` variable that is not in the list, with a sentence that has the name that was probably meant."""
    files = [name + secret_files.SUFFIX for name in secret_files.NAMES]
    names = [*all_variables(), *(name for name in files if name.startswith(PREFIX))]
    return {
        name: f"{name} is not a setting of Millrace. {_hint(name, names)}"
        for name in sorted(environment)
        if name.startswith(PREFIX)
        and name not in names
        and not secret_files.SOURCE.fullmatch(name.removesuffix(secret_files.SUFFIX))
    }


def _hint(name: str, names: list[str]) -> str:
    word = name.removeprefix(PREFIX).removesuffix(secret_files.SUFFIX)
    close = difflib.get_close_matches(word, [known.removeprefix(PREFIX) for known in names], n=1)
    if not close:
        return "`millrace settings` lists those that it knows"
    meant = PREFIX + close[0]
    if name.endswith(secret_files.SUFFIX) and meant + secret_files.SUFFIX in names:
        meant += secret_files.SUFFIX
    return f"Did you mean {meant}?"


def _tables() -> Iterator[str]:
    for section in SECTIONS:
        text = (section.__doc__ or "").partition("\n\n")[2]
        yield from (f"### {section.title()}", "")
        if text:
            yield from (" ".join(text.split()), "")
        yield from ("| variable | default | what it does |", "|---|---|---|")
        for variable in all_variables().values():
            if variable.section is section and not variable.is_internal:
                secret = ". *Secret*" if variable.is_secret else ""
                yield f"| `{variable.name}` | {variable.default} | {variable.description}{secret} |"
        yield ""


def page(text: str) -> str:
    """A page with the tables of all settings between the two markers."""
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    return "\n".join([f"{head}{BEGIN}", "", *_tables(), f"{END}{tail}"])


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(page(path.read_text()))
