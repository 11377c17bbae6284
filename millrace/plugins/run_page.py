"""A tab on the page of a DAG run: the tables it published, their row accounts, and its warnings.

Airflow's own tab "Asset Events" of a run lists the events that *triggered* it, so it is empty for a run that was
triggered by hand or by the clock. What a run *made* is known to each of its tasks only. The page is static: the browser
asks Airflow's REST API as its user.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

PAGE = Path(__file__).with_name("run_page.html")
PREFIX = "/millrace"


async def page(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Answer every request with the page; its imports wait for the first one, as tasks load plugins, too."""
    from starlette.responses import FileResponse

    await FileResponse(PAGE)(scope, receive, send)


class RunPage(AirflowPlugin):
    """The tab, and the address of its page."""

    name = "millrace"
    fastapi_apps: ClassVar = [{"name": "millrace", "app": page, "url_prefix": PREFIX}]
    external_views: ClassVar = [
        {
            "name": "Published Tables",
            "href": f"{PREFIX}/run?dag={{DAG_ID}}&run={{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "published_tables",
        },
    ]
