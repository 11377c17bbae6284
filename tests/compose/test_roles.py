"""Who may do what over REST, and that a feature is written with the token only."""

from __future__ import annotations

import urllib.error

import pytest

from millrace.services import ApiError
from tests.compose.stack import Days, Stack

ROLES = {"vera": "Viewer", "otto": "Op", "ada": "Admin"}


@pytest.fixture(scope="module")
def logins(stack: Stack) -> dict[str, str]:
    """Made as docs/components.md says, each password over standard input."""
    passwords = {name: f"{name}-may-enter" for name in ROLES}
    for name, role in ROLES.items():
        stack.compose("millrace", "users", "add", name, "--role", role, input=f"{passwords[name]}\n")
    return passwords


def status(stack: Stack, name: str, password: str, method: str, path: str, body: object = None) -> int:
    try:
        stack.airflow(name, password).api(method, path, body)
    except ApiError as error:
        return error.status
    return 200


def test_what_each_role_may_do_over_rest(stack: Stack, logins: dict[str, str]) -> None:
    """Look, trigger, and look at the logins. The run that is triggered ends at once: its interval is refused."""
    run = {"logical_date": None, "conf": {"start": "2031-01-01", "end": "2031-01-02"}}
    calls = (("GET", "/api/v2/dags/millrace", None), ("POST", "/api/v2/dags/millrace/dagRuns", run), ("GET", "/auth/fab/v1/users", None))
    assert {name: [status(stack, name, logins[name], *call) for call in calls] for name in ROLES} == {
        "vera": [200, 403, 403],
        "otto": [200, 200, 403],
        "ada": [200, 200, 200],
    }
    assert status(stack, "vera", "guessed-by-another", "GET", "/api/v2/dags") == 401


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
    stack.features("/write-to-online-store", body, headers={"Authorization": f"Bearer {stack.secret('features_token')}"})
    assert stack.online(days.moment()) == before
