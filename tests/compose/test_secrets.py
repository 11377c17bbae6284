"""Secrets that are missing, empty or wrong: the component ends, or says so, in one sentence. And no secret shows
anywhere.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.compose.stack import COMPONENTS, Days, Stack
from tests.projects import GROCERY

PROJECT = GROCERY

BAD = "/bad"
NONE = "which cannot be read: No such file or directory"
EMPTY = "which is empty"
AT_ONCE = 3
Case = tuple[str, tuple[str, ...] | None, str, str, str]
ENDS: list[Case] = [
    # service, command, variable, kind, what it says
    *(
        (name, None, "MILLRACE_DATABASE_FILE", kind, told)
        for name in ("scheduler", "api-server")
        for kind, told in (("none", NONE), ("empty", EMPTY))
    ),
    (
        "scheduler",
        None,
        "MILLRACE_DATABASE_FILE",
        "wrong_database",
        "The metadata database cannot be used: .*password authentication failed",
    ),
    ("scheduler", ("migrate",), "MILLRACE_DATABASE_FILE", "wrong_database", "password authentication failed"),
    ("scheduler", ("migrate",), "MILLRACE_REGISTRY_FILE", "wrong_registry", "password authentication failed"),
    (
        "scheduler",
        ("serve", "--fresh"),
        "MILLRACE_ONLINE_FILE",
        "wrong_online",
        "invalid username-password pair|WRONGPASS",
    ),
    ("scheduler", ("migrate",), "AWS_SECRET_ACCESS_KEY_FILE", "wrong_key", "signature .*AWS_SECRET_ACCESS_KEY"),
    ("scheduler", ("tables",), "AWS_ACCESS_KEY_ID_FILE", "wrong_key", "access key ID .*AWS_ACCESS_KEY_ID"),
    ("scheduler", None, "AIRFLOW__CORE__FERNET_KEY_FILE", "fernet", "AIRFLOW__CORE__FERNET_KEY .*other components"),
    (
        "dag-processor",
        None,
        "AIRFLOW__API_AUTH__JWT_SECRET_FILE",
        "jwt",
        "AIRFLOW__API_AUTH__JWT_SECRET .*other components",
    ),
    *(
        (name, None, "AIRFLOW__CORE__FERNET_KEY_FILE", kind, told)
        for name in ("triggerer",)
        for kind, told in (("none", NONE), ("empty", EMPTY))
    ),
    *(("features", None, "MILLRACE_ONLINE_FILE", kind, told) for kind, told in (("none", NONE), ("empty", EMPTY))),
    (
        "features",
        None,
        "MILLRACE_REGISTRY_FILE",
        "wrong_registry",
        "password authentication failed for user .*MILLRACE_REGISTRY",
    ),
    *(("engine", None, "AWS_SECRET_ACCESS_KEY_FILE", kind, told) for kind, told in (("none", NONE), ("empty", EMPTY))),
    *(("s3", None, "S3_SECRET_KEY_FILE", kind, "must name a file that holds the key") for kind in ("none", "empty")),
    *(
        ("postgres", None, "POSTGRES_PASSWORD_FILE", kind, "must name a file with the password")
        for kind in ("none", "empty")
    ),
]
FRESH = {"postgres": ("-e", "PGDATA=/tmp/fresh")}
"""A first start: later the server's own data have the passwords."""


@pytest.fixture(scope="module")
def bad(stack: Stack) -> Path:
    """A file of each kind of wrong secret."""
    folder = stack.home / "bad"
    folder.mkdir(exist_ok=True)
    wrong: Callable[[str], str] = lambda name: re.sub(r":[^:@/]+@", ":not-the-password@", stack.secret(name))  # noqa: E731
    contents = {
        "empty": "",
        "wrong_database": wrong("database_url"),
        "wrong_registry": wrong("registry_url"),
        "wrong_online": wrong("online_url"),
        "wrong_key": "not-the-key-of-the-bucket",
        "fernet": base64.urlsafe_b64encode(b"f" * 32).decode(),
        "jwt": "j" * 64,
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def ended(request: pytest.FixtureRequest, stack: Stack, bad: Path) -> Iterator[dict[Case, Future[tuple[int, str]]]]:
    """Exit status and output of each case that was selected, a few of them at once: their time is that of Python's
    imports.
    """

    def run(case: Case) -> tuple[int, str]:
        service, command, variable, kind, _ = case
        options = ("-v", f"{bad}:{BAD}:ro", "-e", f"{variable}={BAD}/{kind}", *FRESH.get(service, ()))
        return stack.run_container(service, *options, command=command)

    selected = {
        item.callspec.params["case"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == OF_A_CASE
    }
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {case: pool.submit(run, case) for case in ENDS if case in selected}


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.essential) if "wrong" in case[3] else case for case in ENDS],
    ids=lambda case: "-".join([case[0], *(case[1] or ()), case[2], case[3]]),
)
def test_a_component_without_its_secret_ends_in_a_sentence(
    stack: Stack, ended: dict[Case, Future[tuple[int, str]]], case: Case
) -> None:
    code, said = ended[case].result()
    assert code not in (0, -1), said
    assert "Traceback" not in said, said
    assert re.search(case[-1], " ".join(said.split())), said
    assert len(said.strip().splitlines()) <= 3, said
    assert shown(stack, said) == []
    assert "not-the-" not in said


OF_A_CASE = test_a_component_without_its_secret_ends_in_a_sentence.__name__


def test_a_feature_server_with_a_wrong_password_of_redis_is_not_ready_and_says_why(stack: Stack, bad: Path) -> None:
    """It goes on: passwords are changed while it runs."""
    check = (
        "for i in $(seq 60); do sleep 1; millrace-health features --live >/dev/null && break; done; millrace-health"
        " features"
    )
    found = check.replace("millrace-health", "python3 -I -S /usr/local/lib/health.py")
    options = ("-v", f"{bad}:{BAD}:ro", "-e", f"MILLRACE_ONLINE_FILE={BAD}/wrong_online")
    _, said = stack.run_container(
        "features", *options, command=("sh", "-c", f"python -W ignore -m features.serving & {found}; kill $!; exit 3")
    )
    assert re.search(r"features is not ready \(503\): .*(password|username-password)", " ".join(said.split())), said
    assert shown(stack, said) == []


def shown(stack: Stack, text: str) -> list[str]:
    """The secrets, by name, that can be read in a text."""
    values = {path.name: path.read_text() for path in stack.secrets.iterdir() if not path.name.endswith("_conf")}
    return sorted(name for name, value in values.items() if value in text)


@pytest.mark.essential
def test_no_secret_shows(stack: Stack, days: Days) -> None:
    """In what a container says or is started with, in the list of its processes, in the logs of tasks."""
    for service in (*COMPONENTS, "postgres", "redis", "s3", "migrate"):
        for container in stack.containers(service):
            found = stack.inspect(container)
            assert shown(stack, stack.docker("inspect", container)) == [], f"docker inspect of {service}"
            assert shown(stack, stack.logs(container)) == [], f"docker logs of {service}"
            if found["State"]["Running"]:
                assert shown(stack, stack.docker("top", container, "-eo", "pid,args")) == [], f"processes of {service}"
    logs = stack.execute("s3", "sh", "-c", "cat $(find /data/millrace/logs -type f)").stdout
    assert "silver.transactions" in logs
    assert shown(stack, logs) == []
    written = stack.execute(
        "scheduler", "sh", "-c", "cat $(find /var/lib/millrace/lineage /var/lib/millrace/logs -type f)"
    ).stdout
    assert shown(stack, written) == []
