"""The tab on a run's page: where Airflow looks for it, and that it asks only Airflow."""

import asyncio
import re

import pytest

pytestmark = pytest.mark.usefixtures("airflow", "home")


def test_the_tab_leads_to_the_page_that_is_served() -> None:
    from millrace.plugins.run_page import PREFIX, RunPage

    (app,), (view,) = RunPage.fastapi_apps, RunPage.external_views
    assert (app["url_prefix"], view["destination"]) == (PREFIX, "dag_run")
    assert view["href"] == "/millrace/run?dag={DAG_ID}&run={RUN_ID}"
    assert view["url_route"]


def test_airflow_loads_the_plugin_from_the_folder_that_the_services_name() -> None:
    from airflow._shared.plugins_manager.plugins_manager import is_valid_plugin

    from millrace import environment
    from millrace.plugins import run_page

    assert is_valid_plugin(run_page.RunPage)
    assert environment.environment(8080, 6566, {})["AIRFLOW__CORE__PLUGINS_FOLDER"] == str(run_page.PAGE.parent)


def test_the_page_loads_nothing_but_airflows_events() -> None:
    from millrace.plugins.run_page import page

    sent: list[dict] = []

    async def receive() -> dict:
        await asyncio.Event().wait()  # a client that stays
        return {}

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(page({"type": "http", "method": "GET", "headers": [], "path": "/run"}, receive, send))
    assert sent[0]["status"] == 200
    body = b"".join(message.get("body", b"") for message in sent[1:]).decode()
    assert re.findall(r"fetch\(`([^?`]+)", body) == ["/api/v2/assets/events"]
    assert not re.findall(r"https?://", body)
    assert "innerHTML" not in body, "a table's name or a warning is text, never markup"
