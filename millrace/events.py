"""Events start work: a trigger that starts the main DAG once files have landed, or messages have come, and are whole.

The triggerer imports this module: the heavy part, comparing landing zone and lake (`etl.arrivals`), is done in a thread
and imported there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetOrTimeSchedule, AssetWatcher
from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from lake import settings, storage
from millrace import errors

if TYPE_CHECKING:
    from etl.arrivals import Outstanding, Watcher

ARRIVALS = "arrivals"
DAG_ID = "millrace"
POLL_SECONDS, REMOTE_POLL_SECONDS, LONGEST_PAUSE = 0.5, 2.0, 10.0
"""Seconds between two looks; a bucket is paid by the request."""
LARGEST_SHARE = 0.05
"""Share of a core that looking may take: a landing zone may have many files."""
ACTIVE = ["queued", "running"]
log = logging.getLogger(__name__)


class ArrivalTrigger(BaseEventTrigger):
    """Yields an event when something has come that should start a run. It never ends.

    Nothing is kept: a trigger that is started again finds what is outstanding by comparison.
    """

    def __init__(self, settle: float) -> None:
        super().__init__()
        self.settle = settle

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How Airflow makes this trigger in the triggerer."""
        return f"{__name__}.{type(self).__name__}", {"settle": self.settle}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, and look again. What comes during a run starts the next one."""
        watcher = await asyncio.to_thread(_watcher, self.settle)
        await self._is_active()  # the first answer takes Airflow seconds; not when something has come
        problem = ""
        while True:
            news, pause = None, LONGEST_PAUSE
            try:
                news, pause = await asyncio.to_thread(_look, watcher)
                problem = ""
            except Exception as error:  # the next look may succeed, and without the trigger nothing would look
                if str(error) != problem:
                    problem = str(error)
                    log.warning("New data cannot be looked for: %s", errors.sentence(error) or repr(error))
            if news and not await self._is_active():
                watcher.announced(news)
                yield TriggerEvent(payload(news))
            await asyncio.sleep(pause)

    async def _is_active(self) -> bool:
        """Whether a run is queued or in work. If Airflow cannot say, the event is sent: it waits for the run there."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        try:
            count: int = await sync_to_async(RuntimeTaskInstance.get_dr_count)(dag_id=DAG_ID, states=ACTIVE)
        except Exception as error:
            log.warning("Airflow does not say whether a run is in work: %r", error)
            return False
        return count > 0


def _watcher(settle: float) -> Watcher:
    import deltalake  # noqa: F401 (now, and not when something has come)

    from etl.arrivals import Watcher

    watcher = Watcher(settle)
    with suppress(Exception):  # the next look says why
        watcher.look(time.monotonic())
    return watcher


def _look(watcher: Watcher) -> tuple[Outstanding | None, float]:
    """What should start a run now, and how long to wait before the next look."""
    started = time.thread_time()
    news = watcher.news(time.monotonic())
    is_remote = any(map(storage.is_remote, (settings.landing(), settings.lake())))
    pause = REMOTE_POLL_SECONDS if is_remote else POLL_SECONDS
    return news, min(max(pause, (time.thread_time() - started) / LARGEST_SHARE), LONGEST_PAUSE)


def payload(news: Outstanding) -> dict[str, Any]:
    """What the asset event says: the days that have something new, and what."""
    return {"interval": str(news.interval), "arrivals": [*map(str, news.arrivals)]}


def on_arrivals(daily: Any) -> Any:
    """The schedule of a DAG that new data starts, beside its times if it has any."""
    watcher = AssetWatcher(name=ARRIVALS, trigger=ArrivalTrigger(settings.events_seconds()))
    arrivals = Asset(name=ARRIVALS, group="landing", watchers=[watcher])
    return AssetOrTimeSchedule(timetable=daily, assets=[arrivals]) if daily else [arrivals]
