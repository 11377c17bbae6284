"""Components apart: who may do what, and that runs are whole with two schedulers, one of them ended or killed."""

from __future__ import annotations

import http.cookiejar
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from contracts import catalog
from lake import publishing
from millrace import demo
from millrace.services import ApiError
from tests import patience
from tests.carrying import FIRST, THEN, carry, differing, land, land_more
from tests.components import Running
from tests.conftest import set_home
from tests.e2e.components.conftest import ADMIN, LOGINS, Apart, password_of


@pytest.fixture(scope="module")
def logins(apart: Apart) -> Apart:
    """A login of each role: one password from standard input, one from a file."""
    for name, role in LOGINS.items():
        done = apart.api.command("users", "add", name, "--role", role, input=f"{password_of(name)}\n")
        assert done.returncode == 0, done.stderr
    return apart


def trigger(apart: Apart, interval: tuple[str, str], name: str = "admin", password: str = ADMIN) -> demo.Run:
    return demo.Run.trigger(apart.as_user(name, password), dict(zip(("start", "end"), interval, strict=True)))


def wait(run: demo.Run) -> str:
    patience.until(lambda: run.state() in ("success", "failed"), f"{run.id} does not end", every=0.5)
    return run.state()


# --- health


def test_every_component_is_alive_and_ready(apart: Apart) -> None:
    for component in (*apart.schedulers, *apart.others.values()):
        assert [component.health(path)[0] for path in ("/live", "/ready", "/elsewhere")] == [200, 200, 404]
    assert apart.api.command("health", "api-server", "--live").returncode == 0


def test_asking_costs_less_than_100_ms_of_cpu(apart: Apart) -> None:
    before = os.times()
    assert apart.schedulers[0].command("health", "scheduler").returncode == 0
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.1


def test_a_component_that_says_nothing_is_not_ready_and_says_why(apart: Apart) -> None:
    (triggerer,) = (component for component in psutil.Process(apart.others["triggerer"].process.pid).children())
    triggerer.suspend()
    try:
        patience.until(lambda: apart.others["triggerer"].health()[0] == 503, "a frozen triggerer is ready", every=0.5)
        done = apart.others["triggerer"].command("health", "triggerer")
        assert done.returncode == 1
        assert re.search(r"^triggerer is not ready \(503\): .*the triggerer has said nothing for \d+ s", done.stdout)
        assert apart.others["triggerer"].health("/live")[0] == 200, "it may come back"
    finally:
        triggerer.resume()


# --- logins


def test_a_wrong_password_is_refused(logins: Apart) -> None:
    with pytest.raises(ApiError) as caught:
        logins.as_user("vera", "guessed").api("GET", "/api/v2/dags")
    assert caught.value.status == 401


def test_a_viewer_looks_and_triggers_nothing(logins: Apart) -> None:
    viewer = logins.as_user("vera", password_of("vera"))
    assert "millrace" in {dag["dag_id"] for dag in viewer.api("GET", "/api/v2/dags")["dags"]}
    with pytest.raises(ApiError) as caught:
        demo.Run.trigger(viewer, {"start": FIRST[0], "end": FIRST[1]})
    assert caught.value.status == 403


def test_the_login_page_signs_in(logins: Apart) -> None:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar := http.cookiejar.CookieJar()))
    page = f"{logins.as_user().url}/auth/login/"
    with opener.open(page, timeout=60) as answer:
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', answer.read().decode())
    assert token

    def sign_in(password: str) -> None:
        form = {"csrf_token": token[1], "username": "vera", "password": password}
        opener.open(page, urllib.parse.urlencode(form).encode(), timeout=60).close()

    sign_in("guessed")
    assert "_token" not in {cookie.name for cookie in jar}
    sign_in(password_of("vera"))
    assert "_token" in {cookie.name for cookie in jar}
    with opener.open(f"{logins.as_user().url}/ui/auth/me", timeout=60) as answer:
        assert b"vera" in answer.read()


# --- runs


@pytest.fixture(scope="module")
def control(apart: Apart, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same days in this process, on a file system."""
    home = tmp_path_factory.mktemp("control")
    with pytest.MonkeyPatch.context() as patch:
        set_home(home, patch)
        patch.setenv("MILLRACE_LANDING", str(apart.shop.root))
        yield home / "lake"


def in_control(control: Path, interval: tuple[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        carry(patch, "sail", control, interval)


@pytest.fixture(scope="module")
def first(logins: Apart, control: Path) -> demo.Run:
    """The first days, triggered by an operator."""
    land(logins.shop)
    run = trigger(logins, FIRST, "otto", password_of("otto"))
    in_control(control, FIRST)
    assert wait(run) == "success", run.error()
    return run


def test_a_run_on_components_apart_ends_in_the_tables_of_one_process(logins: Apart, control: Path, first: demo.Run) -> None:
    assert differing(control, logins.lake) == []
    for table in catalog.tables():
        assert first.result(table.qualified)["status"] == "published"


def test_logs_of_tasks_are_read_from_the_bucket_failed_ones_too(logins: Apart, first: demo.Run) -> None:
    log = logins.as_user("vera", password_of("vera")).api("GET", f"{first._path}/taskInstances/silver.transactions/logs/1")["content"]
    assert "silver.transactions" in str(log)
    failed = trigger(logins, ("2030-01-01", "2030-01-02"), "ulla", password_of("ulla"))
    assert wait(failed) == "failed"
    assert "lies outside the data" in failed.error()
    assert not list(Path(logins.api.environment["MILLRACE_HOME"]).glob("logs/tasks/**/*.log"))


def test_a_run_is_whole_when_one_scheduler_ends_and_one_is_killed_in_the_middle(
    logins: Apart, control: Path, first: demo.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    land_more(logins.shop)
    for name, value in (logins.gateway.environment() | {"MILLRACE_LAKE": logins.stack.shared["MILLRACE_LAKE"]}).items():
        monkeypatch.setenv(name, value)
    with publishing.locked("gold.customer_activity"):
        with publishing.locked("silver.transactions"):
            run = trigger(logins, THEN)
            ended = holder(logins, run, "silver.transactions")
            ended.process.terminate()
            patience.until(lambda: "is ending" in ended.health()[1], "it does not say that it ends")
            time.sleep(1)
            assert ended.process.poll() is None, "it waits for its task"
        assert ended.process.wait(timeout=patience.SECONDS) == 0
        assert task(run, "silver.transactions")["state"] == "success"
        logins.schedulers.remove(ended)
        logins.schedulers.append(logins.stack.start("scheduler"))
        killed = holder(logins, run, "gold.customer_activity")
        killed.kill()
        at = time.monotonic()
        logins.schedulers.remove(killed)
        patience.until(lambda: task(run, "gold.customer_activity")["hostname"] not in ("", killed.host), "nobody runs its task again", every=0.5)
        print(f"Another scheduler ran the task again after {time.monotonic() - at:.0f} s")
    in_control(control, THEN)
    assert wait(run) == "success", run.error()
    assert differing(control, logins.lake) == []


def task(run: demo.Run, name: str) -> dict[str, object]:
    return run.airflow.api("GET", f"{run._path}/taskInstances/{name}")


def holder(apart: Apart, run: demo.Run, name: str) -> Running:
    """The scheduler that runs this task now."""
    patience.until(lambda: task(run, name)["state"] == "running" and task(run, name)["hostname"], f"{name} is not at work", every=0.3)
    return next(scheduler for scheduler in apart.schedulers if scheduler.host == task(run, name)["hostname"])
