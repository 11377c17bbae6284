"""Who may do what over REST, and that a feature is written with the token only."""

from __future__ import annotations

import http.cookiejar
import re
import urllib.error
import urllib.parse
import urllib.request

import pytest

from millrace.services import ApiError
from tests.compose.stack import Days, Stack
from tests.projects import GROCERY

PROJECT = GROCERY

ROLES = {"vera": "Viewer", "otto": "Op"}


@pytest.fixture(scope="module")
def logins(stack: Stack) -> dict[str, str]:
    """Made as docs/components.md says, each password over standard input; and the first administrator's."""
    passwords = {name: f"{name}-may-enter" for name in ROLES}
    for name, role in ROLES.items():
        stack.compose("millrace", "users", "add", name, "--role", role, input=f"{passwords[name]}\n")
    return passwords | {"admin": stack.secret("admin_password")}


def status(stack: Stack, name: str, password: str, method: str, path: str, body: object = None) -> int:
    try:
        stack.airflow(name, password).api(method, path, body)
    except ApiError as error:
        return error.status
    return 200


@pytest.mark.essential
def test_what_each_role_may_do_over_rest(stack: Stack, logins: dict[str, str]) -> None:
    """Look, trigger, and look at the logins. The run that is triggered ends at once: its interval is refused."""
    run = {"logical_date": None, "conf": {"start": "2031-01-01", "end": "2031-01-02"}}
    calls = (
        ("GET", "/api/v2/dags/millrace", None),
        ("POST", "/api/v2/dags/millrace/dagRuns", run),
        ("GET", "/auth/fab/v1/users", None),
    )
    assert {name: [status(stack, name, logins[name], *call) for call in calls] for name in logins} == {
        "vera": [200, 403, 403],
        "otto": [200, 200, 403],
        "admin": [200, 200, 200],
    }
    assert status(stack, "vera", "guessed-by-another", "GET", "/api/v2/dags") == 401


@pytest.mark.essential
def test_the_login_page_signs_in(stack: Stack, logins: dict[str, str]) -> None:
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(jar := http.cookiejar.CookieJar())
    )
    url = stack.airflow().url
    with opener.open(f"{url}/auth/login/", timeout=60) as answer:
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', answer.read().decode())
    assert token

    def sign_in(password: str) -> set[str]:
        form = urllib.parse.urlencode({"csrf_token": token[1], "username": "vera", "password": password}).encode()
        opener.open(f"{url}/auth/login/", form, timeout=60).close()
        return {cookie.name for cookie in jar}

    assert "_token" not in sign_in("guessed")
    assert "_token" in sign_in(logins["vera"])
    with opener.open(f"{url}/ui/auth/me", timeout=60) as answer:
        assert b"vera" in answer.read()


@pytest.mark.essential
def test_a_viewer_reads_logs_that_are_in_the_bucket_alone(stack: Stack, days: Days, logins: dict[str, str]) -> None:
    viewer = stack.airflow("vera", logins["vera"])
    (run,) = viewer.api("GET", "/api/v2/dags/millrace/dagRuns?state=success&order_by=-start_date&limit=1")["dag_runs"]
    path = f"/api/v2/dags/millrace/dagRuns/{urllib.parse.quote(run['dag_run_id'])}/taskInstances/silver.transactions"
    log = viewer.api("GET", f"{path}/logs/{viewer.api('GET', path)['try_number']}")["content"]
    assert "silver.transactions" in str(log)
    here = ("-path", f"*/run_id={run['dag_run_id']}*/task_id=silver.transactions/*", "-type", "f")
    assert stack.execute("scheduler", "find", "/var/lib/millrace/logs/tasks", *here).stdout == ""


@pytest.mark.essential
def test_a_feature_is_written_with_the_token_only(stack: Stack, days: Days) -> None:
    """What is written is what is there, so that what is online stays equal to the control."""
    before = stack.online(days.moment())
    row = {
        "customer_id": [1],
        "age": ["25-34"],
        "income": ["50-74K"],
        "household_size": ["2"],
        "kids_count": ["0"],
        "event_timestamp": ["2017-03-01T00:00:00Z"],
    }
    body = {"feature_view_name": "customer_profile", "df": row}
    for headers in ({}, {"Authorization": "Bearer guessed"}):
        with pytest.raises(urllib.error.HTTPError) as caught:
            stack.features("/write-to-online-store", body, headers=headers)
        assert caught.value.code == 401
    stack.features(
        "/write-to-online-store", body, headers={"Authorization": f"Bearer {stack.secret('features_token')}"}
    )
    assert stack.online(days.moment()) == before
