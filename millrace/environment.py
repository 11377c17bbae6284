"""The environment of the components: the caller's variables plus Millrace's defaults. `make up` and `millrace start`
share it.

The caller's `AIRFLOW__...` variables win, except for the home, the ports and the address to listen on, which are
Millrace's own settings. Starting processes does not belong here.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from contracts import project
from lake import settings

CHECKOUT = settings.CHECKOUT
LOOPBACK = settings.LOOPBACK
USERNAME = "admin"
SHARED_SECRETS = ("AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY")
"""Keys that all components of one Airflow must share."""
ADMIN_PASSWORD = "MILLRACE_ADMIN_PASSWORD"
FAB_AUTH_MANAGER = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"


def environment(port: int, features: int, caller: Mapping[str, str]) -> dict[str, str]:
    """The environment of the components: the caller's variables, Millrace's own, and defaults for the rest."""
    state, url = settings.home(), api_url(port, caller)
    own = {
        "MILLRACE_HOME": str(state),
        project.SETTING: str(project.current().root),  # components run in another folder
        "MILLRACE_LOGS": str(state / "logs"),
        "MILLRACE_PORT": str(port),
        "MILLRACE_FEATURES_PORT": str(features),
        "AIRFLOW_HOME": str(state / "airflow"),
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__HOST": settings.bind(),
        "PYTHONPATH": _joined(str(CHECKOUT), caller.get("PYTHONPATH")),
        "PATH": _joined(str(Path(sys.executable).parent), caller.get("PATH")),
        "SPT_NOENV": "1",  # otherwise setproctitle overwrites the environment in /proc, and the token in it
        **{
            name: _joined(LOOPBACK, "localhost", _host(url), caller.get(name), separator=",")
            for name in ("NO_PROXY", "no_proxy")
        },
    }
    # The first triples the time of every start, the second is for `millrace.metadata` alone.
    dropped = ("PYTHONDONTWRITEBYTECODE", ADMIN_PASSWORD)
    inherited = {name: value for name, value in caller.items() if name not in dropped}
    return {**_defaults(url), **_database(caller), **_task_logs(caller), **_auth(), **inherited, **own}


def own_host() -> str:
    """The host, as part of a URL, at which this machine reaches servers that listen on `MILLRACE_BIND`."""
    address = settings.bind()
    address = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(address, address)
    return f"[{address}]" if ":" in address else address


def api_url(port: int, caller: Mapping[str, str]) -> str:
    """Where components reach the api-server: `MILLRACE_API_URL`, or this machine."""
    url = caller.get("MILLRACE_API_URL")
    return str(settings.parse("MILLRACE_API_URL", url)).rstrip("/") if url else f"http://{own_host()}:{port}"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _bundles() -> list[dict[str, Any]]:
    """Airflow's DAG bundles: Millrace's DAG files, and the project's if it has any."""
    local = "airflow.dag_processing.bundles.local.LocalDagBundle"
    own = project.current().root / "dags"
    folders: dict[str, dict[str, str]] = {
        "dags-folder": {},
        **({"project": {"path": str(own)}} if own.is_dir() else {}),
    }
    return [{"name": name, "classpath": local, "kwargs": options} for name, options in folders.items()]


def _defaults(url: str) -> dict[str, str]:
    return {
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__DAGS_FOLDER": str(CHECKOUT / "dags"),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(_bundles()),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(CHECKOUT / "millrace" / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "4",
        # Airflow's default of 5 s is too short on a busy machine, and fails the task
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
        # a worker may notice its task's end only at the next heartbeat
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        # so that tasks inherit what the scheduler preloads, on Python 3.14 as well
        "AIRFLOW__CORE__MP_START_METHOD": "fork",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USERNAME}:admin",
        # `millrace.metadata` migrates once, and `millrace.foreground` waits for it
        "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        # Millrace's own jobs are in `millrace`: a task must not have the name of the table it builds
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "airflow",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "lineage.transport.FileOrServer", "file": "airflow"}),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "RUST_LOG": "warn",  # Sail logs to stderr, which Airflow shows as errors
        "GX_ANALYTICS_ENABLED": "False",
        "FEAST_USAGE": "False",
    }


def _database(caller: Mapping[str, str]) -> dict[str, str]:
    """Airflow's metadata database: `MILLRACE_DATABASE`; if unset, a SQLite file in the home.

    Asynchronous connections use libpq as well, with the same options (TLS and PGPASSFILE included): Airflow's default,
    asyncpg, names them differently. The same holds if Airflow's own variable names the database.
    """
    url = caller.get("MILLRACE_DATABASE") or ""
    if url:
        settings.parse("MILLRACE_DATABASE", url)
    scheme, _, plain = (caller.get("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN") or url).partition("://")
    if not scheme.startswith("postgres"):
        return {}
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{plain}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+psycopg_async://{plain}",
    }


def task_logs() -> Path:
    """The folder of task logs in the home."""
    return settings.home() / "logs" / "tasks"


def _task_logs(caller: Mapping[str, str]) -> dict[str, str]:
    """Where task logs go: `MILLRACE_TASK_LOGS`; if unset, the home. From a bucket every api-server can show them."""
    local = task_logs()
    where = caller.get("MILLRACE_TASK_LOGS")
    if where:
        where = str(settings.parse("MILLRACE_TASK_LOGS", where))
    if not where or "://" not in where:
        return {"AIRFLOW__LOGGING__BASE_LOG_FOLDER": where or str(local)}
    return {
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(local),
        "AIRFLOW__LOGGING__REMOTE_LOGGING": "True",
        "AIRFLOW__LOGGING__REMOTE_BASE_LOG_FOLDER": where.rstrip("/"),
        "AIRFLOW__LOGGING__REMOTE_LOG_CONN_ID": "millrace_task_logs",
        "AIRFLOW__LOGGING__DELETE_LOCAL_LOGS": "True",
        # an empty connection: boto3 finds credentials and AWS_ENDPOINT_URL in the environment
        "AIRFLOW_CONN_MILLRACE_TASK_LOGS": "aws://",
    }


def _auth() -> dict[str, str]:
    return {"AIRFLOW__CORE__AUTH_MANAGER": FAB_AUTH_MANAGER} if settings.auth() == settings.FAB else {}


def _joined(*parts: str | None, separator: str = os.pathsep) -> str:
    return separator.join(part for part in parts if part)


def shared_secrets(folder: Path) -> dict[str, str]:
    """Airflow's keys, generated once and kept, so that sessions and encrypted connections survive a restart."""
    return _read_or_create(
        folder / "secrets.json",
        lambda: {
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
            "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(48),
        },
    )


def admin_password(folder: Path) -> str:
    """The administrator's password: `MILLRACE_ADMIN_PASSWORD`, or the one in the file that SimpleAuthManager reads."""
    path = folder / "simple_auth_manager_passwords.json.generated"
    generated = _read_or_create(path, lambda: {USERNAME: secrets.token_urlsafe(12)})[USERNAME]
    return (os.environ.get(ADMIN_PASSWORD) if settings.auth() == settings.FAB else None) or generated


def _read_or_create(path: Path, generate: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Read a file of secrets that only this user may read, or create it atomically: of two processes that create it at
    once, both read the same secrets.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(generate()) + "\n")
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    contents: dict[str, str] = json.loads(path.read_text())
    return contents


def missing_secrets(variables: Mapping[str, str]) -> list[str]:
    """The shared secrets that these variables do not set, directly, by command or by secrets backend."""
    return [
        name for name in SHARED_SECRETS if not any(variables.get(name + suffix) for suffix in ("", "_CMD", "_SECRET"))
    ]
