"""NAME_FILE: what a file may hold, what is said when it cannot be used, and that its content is never said."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lake import secret_files, settings
from lake.secret_files import SecretError

URL = "postgresql://millrace:opensesame@db/features"


def written(folder: Path, content: bytes, mode: int = 0o600) -> str:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (b"opensesame", "opensesame"),
        (b"opensesame\n", "opensesame"),
        (b"opensesame\r\n", "opensesame"),
        (b"opensesame\n\n", "opensesame\n"),
        (b" open sesame ", " open sesame "),
        ("öffne dich\n".encode(), "öffne dich"),
        (b"x" * secret_files.LARGEST, "x" * secret_files.LARGEST),
    ],
)
def test_a_file_becomes_the_variable(tmp_path: Path, content: bytes, value: str) -> None:
    environment = {"MILLRACE_ONLINE_FILE": written(tmp_path, content), "PATH": "/bin"}
    secret_files.load(environment)
    assert environment == {"MILLRACE_ONLINE": value, "PATH": "/bin"}
    secret_files.load(environment)
    assert environment == {"MILLRACE_ONLINE": value, "PATH": "/bin"}


def test_each_variable_of_the_list_may_be_a_file_and_no_other(tmp_path: Path) -> None:
    path = written(tmp_path, b"opensesame")
    environment = {
        name + "_FILE": path for name in (*secret_files.NAMES, "PGPASS", "AWS_WEB_IDENTITY_TOKEN", "MILLRACE_HOME")
    }
    secret_files.load(environment)
    others = {"PGPASS_FILE": path, "AWS_WEB_IDENTITY_TOKEN_FILE": path, "MILLRACE_HOME_FILE": path}
    assert environment == dict.fromkeys(secret_files.NAMES, "opensesame") | others


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    """Compose sets variables to nothing where the caller has none."""
    environment = {
        "MILLRACE_ONLINE": "",
        "MILLRACE_ONLINE_FILE": written(tmp_path, b"sqlite"),
        "MILLRACE_ENGINE_FILE": "",
    }
    secret_files.load(environment)
    assert environment == {"MILLRACE_ONLINE": "sqlite"}


def test_threads_that_come_at_once_do_not_find_both(tmp_path: Path) -> None:
    class Slow(dict[str, str]):
        """Lets another thread go first while both are set."""

        def __setitem__(self, name: str, value: str) -> None:
            super().__setitem__(name, value)
            time.sleep(0.05)

    environment = Slow(MILLRACE_ONLINE_FILE=written(tmp_path, b"sqlite"))
    with ThreadPoolExecutor(4) as threads:
        for loaded in [threads.submit(secret_files.load, environment) for _ in range(4)]:
            loaded.result()
    assert environment == {"MILLRACE_ONLINE": "sqlite"}


def test_both_are_refused(tmp_path: Path) -> None:
    environment = {"MILLRACE_ONLINE": URL, "MILLRACE_ONLINE_FILE": written(tmp_path, b"opensesame")}
    with pytest.raises(
        SecretError, match=r"^MILLRACE_ONLINE and MILLRACE_ONLINE_FILE are both set\. Unset one of them$"
    ):
        secret_files.load(environment)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "which is empty. Write the secret into it, or unset MILLRACE_ONLINE_FILE"),
        (b"\n", "which is empty"),
        (b"opensesame\xff", "which is not UTF-8"),
        (b"open\0sesame", "which holds a NUL byte"),
        (b"opensesame" * 10_000, "which has more than 64 KiB"),
    ],
)
def test_a_file_that_cannot_be_a_secret_is_named_and_its_content_is_not(
    tmp_path: Path, content: bytes, fault: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(SecretError) as raised:
        secret_files.load({"MILLRACE_ONLINE_FILE": path})
    assert str(raised.value).startswith(f"MILLRACE_ONLINE_FILE names {path}, {fault}")
    assert "sesame" not in "".join(traceback.format_exception(raised.value))


def test_a_path_that_is_no_file_is_named(tmp_path: Path) -> None:
    pipe, loop = tmp_path / "pipe", tmp_path / "loop"
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    faults = {
        tmp_path / "absent": "cannot be read: No such file or directory",
        tmp_path: "is a folder",
        pipe: "is neither a file nor a link to one",
        loop: "cannot be read: Too many levels of symbolic links",
        tmp_path / ("x" * 300): "cannot be read: File name too long",
    }
    for path, fault in faults.items():
        with pytest.raises(SecretError) as raised:
            secret_files.load({"MILLRACE_ONLINE_FILE": str(path)})
        assert str(raised.value).startswith(f"MILLRACE_ONLINE_FILE names {path}, which {fault}")


def test_a_file_of_another_user_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, b"opensesame", 0)
    own = os.geteuid()
    if own == 0:
        os.seteuid(65_534)  # root reads everything
    try:
        with pytest.raises(SecretError, match="cannot be read: Permission denied"):
            secret_files.load({"MILLRACE_ONLINE_FILE": path})
    finally:
        os.seteuid(own)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o444, True)])
def test_a_file_that_all_may_read_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: bool
) -> None:
    path = written(tmp_path, b"opensesame", mode)
    secret_files.load({"MILLRACE_ONLINE_FILE": path})
    expected = [f"MILLRACE_ONLINE_FILE names {path}, which every user of this machine can read. Run `chmod o= {path}`"]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == expected * warned


READ_ONLY = """
set -e
mount -t tmpfs tmpfs "$1"
echo opensesame > "$1/secret"
chmod 444 "$1/secret"
mount -o remount,ro "$1"
MILLRACE_ONLINE_FILE="$1/secret" exec "$2" -c 'from lake import settings; print(settings.online())'
"""


def test_a_file_on_a_read_only_mount_is_not_warned_of(tmp_path: Path) -> None:
    """As Docker and Kubernetes mount theirs."""
    own = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*own, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a mount namespace")
    command = [*own, "sh", "-c", READ_ONLY, "sh", str(tmp_path), sys.executable]
    done = subprocess.run(command, cwd=settings.CHECKOUT, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("opensesame\n", "")


USES = {
    "MILLRACE_ONLINE": "from lake import settings; value = settings.online()",
    "MILLRACE_ENGINE": "from lake import settings; value = settings.engine()",
    "AWS_SECRET_ACCESS_KEY": (
        "from lake import bucket; bucket.to_path('s3://lake/x'); value = os.environ['AWS_SECRET_ACCESS_KEY']"
    ),
}


@pytest.mark.parametrize("name", USES)
def test_a_process_that_begins_in_the_middle_reads_its_files(home: Path, name: str) -> None:
    """As a notebook that asks for a session, or a store that is opened."""
    path = written(home, b"sqlite\n")
    code = f"import os; {USES[name]}; print(value, '{name}_FILE' in os.environ)"
    environment = {**os.environ, f"{name}_FILE": path}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=settings.CHECKOUT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "sqlite False\n", done.stderr


ENTRIES = ("millrace tables", "millrace.services up", "millrace.host", "millrace.demo", "features.serving")


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_entry_point_says_what_is_wrong_with_a_file_before_it_does_anything(home: Path, entry: str) -> None:
    path = written(home, b"opensesame\xff")
    environment = {**os.environ, "MILLRACE_ONLINE_FILE": path}
    command = [sys.executable, "-W", "ignore", "-m", *entry.split()]
    done = subprocess.run(command, cwd=settings.CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    message = (done.stdout + done.stderr).strip()
    assert done.returncode in (1, 2)
    assert (
        message.removeprefix("SecretError: ")
        == f"MILLRACE_ONLINE_FILE names {path}, which is not UTF-8. Write the secret as text"
    )
    assert [file.name for file in home.iterdir()] == ["secret"]


def test_the_feature_server_does_not_start_with_a_token_that_nobody_could_send(home: Path) -> None:
    named = {"MILLRACE_FEATURES_WRITES": "1", "MILLRACE_FEATURES_TOKEN_FILE": written(home, b"short")}
    command = [sys.executable, "-W", "ignore", "-m", "features.serving"]
    environment = {**os.environ, **named}
    done = subprocess.run(command, cwd=settings.CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("The token in the file that MILLRACE_FEATURES_TOKEN_FILE names is readable by other")
    assert len(done.stderr.splitlines()) == 1
