"""The environment of Millrace's components: what the caller's variables leave open, completed. `make up` and `millrace
start` share it.

What the caller says about Airflow (`AIRFLOW__...`) wins, but for the home, the ports and the address to listen on,
which are Millrace's own settings. Starting anything does not belong here.
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
"""What all components of one Airflow have to agree on."""
ADMIN_PASSWORD = "MILLRACE_ADMIN_PASSWORD"
FAB_AUTH_MANAGER = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"


def environment(port: int, features: int, caller: Mapping[str, str]) -> dict[str, str]:
    """The environment of the components: the caller's, completed."""
    state, url = settings.home(), _api_url(port, caller)
    ours = {
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
        "SPT_NOENV": "1",  # else setproctitle overwrites the environment that /proc shows, and the token in it
        **{
            name: _joined(LOOPBACK, "localhost", _host(url), caller.get(name), separator=",")
            for name in ("NO_PROXY", "no_proxy")
        },
    }
    dropped = (
        "PYTHONDONTWRITEBYTECODE",
        ADMIN_PASSWORD,
    )  # one triples every start, the other is for `millrace.metadata` alone
    inherited = {name: value for name, value in caller.items() if name not in dropped}
    return {**_defaults(url), **_database(caller), **_task_logs(state, caller), **_auth(), **inherited, **ours}


def own_host() -> str:
    """The host of a URL by which this machine reaches what listens on `MILLRACE_BIND`."""
    address = settings.bind()
    address = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(address, address)
    return f"[{address}]" if ":" in address else address


def _api_url(port: int, caller: Mapping[str, str]) -> str:
    """`MILLRACE_API_URL`: where components reach the api-server."""
    url = caller.get("MILLRACE_API_URL")
    return str(settings.parse("MILLRACE_API_URL", url)).rstrip("/") if url else f"http://{own_host()}:{port}"


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


def _bundles() -> list[dict[str, Any]]:
    """The folders of DAG files: ours, and the project's where it has one."""
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
        # Airflow's 5 s are too few on a busy machine, and end the task
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
        # our own jobs are in `millrace`: a task must not be named as the table it makes
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "airflow",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps({"type": "lineage.transport.FileOrServer", "file": "airflow"}),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "RUST_LOG": "warn",  # Sail logs to stderr, which Airflow shows as errors
        "GX_ANALYTICS_ENABLED": "False",
        "FEAST_USAGE": "False",
    }


def _database(caller: Mapping[str, str]) -> dict[str, str]:
    """`MILLRACE_DATABASE`: where Airflow keeps its metadata; unset, in a SQLite file in the home.

    Airflow's asynchronous half goes by libpq as well, with the same options (TLS and PGPASSFILE included): Airflow
    would take asyncpg, which spells them otherwise. So it does where Airflow's own variable names the database.
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


def _task_logs(state: Path, caller: Mapping[str, str]) -> dict[str, str]:
    """`MILLRACE_TASK_LOGS`: where the logs of tasks lie; unset, in the home. In a bucket, every api-server can show
    them.
    """
    local = state / "logs" / "tasks"
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
        # nothing of its own: boto3 finds credentials and AWS_ENDPOINT_URL in the environment
        "AIRFLOW_CONN_MILLRACE_TASK_LOGS": "aws://",
    }


def _auth() -> dict[str, str]:
    return {"AIRFLOW__CORE__AUTH_MANAGER": FAB_AUTH_MANAGER} if settings.auth() == settings.FAB else {}


def _joined(*parts: str | None, separator: str = os.pathsep) -> str:
    return separator.join(part for part in parts if part)


def shared_secrets(folder: Path) -> dict[str, str]:
    """Airflow's keys, made once and kept, so that sessions and encrypted connections survive a restart."""
    return _kept(
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
    kept = _kept(path, lambda: {USERNAME: secrets.token_urlsafe(12)})[USERNAME]
    return (os.environ.get(ADMIN_PASSWORD) if settings.auth() == settings.FAB else None) or kept


def _kept(path: Path, make: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Read a private file of secrets, or make it: whole or not at all, for this user only, and the same for two who
    make it at once.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(make()) + "\n")
        with suppress(FileExistsError):
            path.hardlink_to(draft)
        draft.unlink()
    kept: dict[str, str] = json.loads(path.read_text())
    return kept


def missing_secrets(variables: Mapping[str, str]) -> list[str]:
    """The shared secrets that these variables do not give, in any of the ways that Airflow takes them."""
    return [
        name for name in SHARED_SECRETS if not any(variables.get(name + suffix) for suffix in ("", "_CMD", "_SECRET"))
    ]
