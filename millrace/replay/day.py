"""Send a day's events to the topic at a chosen speed, and show what becomes of them."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contracts import catalog
from contracts.model import Table
from features.views import REQUEST_TIME
from millrace.replay import comparison
from millrace.replay.schedule import Event, Sending

if TYPE_CHECKING:
    from confluent_kafka import Producer
    from rich.console import Console

    from etl.sources.kafka import Lag

SHOWN_SECONDS, SOON_SECONDS = 5.0, 0.5
"""How often to show where the replay is, and how soon after an event of the entity that is watched."""
POLL_SECONDS = 0.05
DRAIN_SECONDS = 180.0
FLUSH_SECONDS = 60.0


class ReplayError(RuntimeError):
    """The replay failed; the message says what to do."""


class TopicSender:
    """Sends messages to a topic, each acknowledged by all replicas and once."""

    def __init__(self, table: Table, conf: dict[str, Any]) -> None:
        from confluent_kafka import Producer

        from etl.sources.kafka import CLIENT_LOG

        self._topic = table.topic.name if table.topic else ""
        self._producer: Producer = Producer({**conf, "enable.idempotence": True, "linger.ms": 5}, logger=CLIENT_LOG)
        self.acknowledged = 0
        self._failure = ""

    def send(self, event: Event) -> None:
        """Send an event, once the producer has room for it."""
        value = json.dumps(dict(event.value)).encode()
        while True:
            try:
                self._producer.produce(self._topic, value, event.key.encode(), on_delivery=self._note)
                break
            except BufferError:
                self._producer.poll(POLL_SECONDS)
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until every message is acknowledged; ReplayError if one was not."""
        waiting = self._producer.flush(FLUSH_SECONDS)
        if waiting or self._failure:
            raise ReplayError(
                f"{waiting:,} messages are not acknowledged: {self._failure or 'the brokers do not answer'}. Run the"
                " same command again: messages that come twice count once"
            )

    def _note(self, error: Any, _message: Any) -> None:
        if error is None:
            self.acknowledged += 1
        else:
            self._failure = str(error)


@dataclass
class Watched:
    """The entity whose features are shown, and what they were when last printed."""

    keys: dict[str, Any]
    references: Sequence[str]

    @classmethod
    def busiest(cls, references: Sequence[str], events: Sequence[Event]) -> Watched:
        """The entity of the view that has events at most instants."""
        table = catalog.table(f"gold.{references[0].partition(':')[0]}")
        names = comparison.key_names(table)
        instants: dict[tuple[Any, ...], set[datetime]] = defaultdict(set)
        for event in events:
            instants[tuple(event.entities[name] for name in names)].add(event.at)
        keys = min(instants, key=lambda keys: (-len(instants[keys]), keys))
        return cls(dict(zip(names, keys, strict=True)), references)

    def concerns(self, event: Event) -> bool:
        """Whether an event is one of the entity's."""
        return all(event.entities[name] == value for name, value in self.keys.items())

    def read(self, at: datetime) -> str:
        """Its features at an instant, in words."""
        row = [{**self.keys, REQUEST_TIME: at}]
        answer = comparison.store().get_online_features([*self.references], row).to_dict()
        values = {name: answer[name][0] for name in (reference.partition(":")[2] for reference in self.references)}
        entity = ", ".join(f"{name.removesuffix('_id')} {value}" for name, value in self.keys.items())
        return f"{entity}: {', '.join(f'{name} {_plain(value)}' for name, value in values.items())}"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "none" if value is None else str(value)


@contextmanager
def _bar(console: Console, total: int) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on a terminal; nothing in a pipe."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sending", total=total)
        yield lambda sent, words: progress.update(task, completed=sent, description=words)


class Replay:
    """Sends the schedule and shows throughput, lag and one entity's features."""

    def __init__(
        self,
        console: Console,
        sender: TopicSender,
        lags: Callable[[], list[Lag]],
        check: Callable[[], None],
        watched: Watched,
    ) -> None:
        self._console, self._sender, self._lags = console, sender, lags
        self._check, self._watched = check, watched
        self._shown_at = self._due = 0.0
        self._shown_count = 0

    def send(self, sendings: Sequence[Sending], speed: float) -> None:
        """Send everything, `speed` times as fast as it happened, and wait for all acknowledgements."""
        started, first = time.monotonic(), sendings[0].at
        self._shown_at, self._shown_count, self._due = started, 0, started + SHOWN_SECONDS
        with _bar(self._console, len(sendings)) as progress:
            for count, sending in enumerate(sendings):
                self._wait(started + (sending.at - first).total_seconds() / speed, sending.at, count)
                self._sender.send(sending.event)
                if self._watched.concerns(sending.event):
                    self._due = min(self._due, time.monotonic() + SOON_SECONDS)
                progress(count + 1, f"{sending.at:%H:%M}")
            self._sender.flush()
        self._show(sendings[-1].at, len(sendings))

    def _wait(self, until: float, at: datetime, sent: int) -> None:
        """Wait for the next sending, and show where the replay is when that is due."""
        while True:
            if time.monotonic() >= self._due:
                self._show(at, sent)
            rest = until - time.monotonic()
            if rest <= 0:
                return
            time.sleep(min(POLL_SECONDS, rest))

    def drain(self) -> None:
        """Wait until tables and views have read everything. ReplayError if they do not."""
        deadline = time.monotonic() + DRAIN_SECONDS
        while any(lag.messages for lag in self._lags()):
            self._check()
            if time.monotonic() > deadline:
                raise ReplayError(
                    f"the topic is not read up after {DRAIN_SECONDS:.0f} s: {self._spelled_lags()}. See the logs of"
                    " lake-writer and feature-worker, then run the same command again"
                )
            time.sleep(0.2)

    def _show(self, at: datetime, sent: int) -> None:
        self._check()
        now = time.monotonic()
        rate = (sent - self._shown_count) / max(now - self._shown_at, POLL_SECONDS)
        self._shown_at, self._shown_count, self._due = now, sent, now + SHOWN_SECONDS
        self._console.print(
            f"  {at:%H:%M}  {sent:>6,} sent, {rate:>5,.0f}/s; lag: {self._spelled_lags()}; {self._watched.read(at)}",
            markup=False,
        )

    def _spelled_lags(self) -> str:
        behind: Counter[str] = Counter()
        for lag in self._lags():
            behind[lag.table] += lag.messages
        return ", ".join(f"{name} {count:,}" for name, count in behind.items())
