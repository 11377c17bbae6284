"""The steps of a replay, from the broker to the comparison."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from contracts import catalog, project
from contracts.interval import midnight
from contracts.model import Table
from lake import release, settings
from millrace import broker, demo, foreground, pipeline, run_ids, services, show, stream_lags
from millrace.replay import comparison, processes
from millrace.replay.comparison import Comparison, Served
from millrace.replay.day import Replay, ReplayError, TopicSender, Watched
from millrace.replay.schedule import Delivery, Event, Sending, schedule
from millrace.services import Services

if TYPE_CHECKING:
    from rich.console import Console

    from etl.sources.kafka import Lag

KAFKA = "MILLRACE_KAFKA"
PARTITIONS = 4
TOPIC_SECONDS = 30.0


def run(speed: float, seed: int, airflow: bool) -> bool:
    """Replay a day; whether the stream served what the batch computes.

    The batch is a run of the DAG over REST, or without `airflow` one in this process.
    """
    console, started = show.console(), time.monotonic()
    with alone():
        same = _run(console, speed, seed, airflow)
        console.print(f"{time.monotonic() - started:.0f} s from start to here.", style="dim", markup=False)
    return same


@contextmanager
def alone() -> Iterator[None]:
    """One replay at a time in this home; ReplayError for a second one."""
    path = settings.home() / "run" / "replay.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=0):
            yield
    except Timeout:
        raise ReplayError(f"another replay runs in {settings.home()}. Wait until it has ended") from None


def _run(console: Console, speed: float, seed: int, airflow: bool) -> bool:
    maker = project.required("replay", "replay a day")
    table = catalog.table(maker.TABLE)
    day = date.fromisoformat(release.read().horizon)
    events: list[Event] = maker.events(day)
    running_services = _services(console) if airflow else None
    _describe(console, day, events, schedule(events, seed), speed)
    with _brokers(console) as urls, _kafka(urls):
        _create_topic(console, table)
        with ExitStack() as stack:
            running = [stack.enter_context(processes.running(name)) for name in _components()]
            with demo.timed(console, f"Starting the {' and the '.join(component.name for component in running)}"):
                comparison.store()  # Feast's import takes as long
                for component in running:
                    processes.wait_until_ready(component)
            with demo.timed(console, "Replay"):
                served = _replay(console, table, maker.SHOWN, events, speed, seed, running)
            _run_batch(console, running_services, day, events)
    served += comparison.serve_midnight(events, midnight(day + timedelta(days=1)))
    return _compare(console, served)


def _components() -> list[foreground.Name]:
    """Those that read the topic: a feature worker is of use only where a view counts messages at once."""
    from features.streaming import tails

    return ["lake-writer", "feature-worker"] if tails.all_tails() else ["lake-writer"]


def _describe(console: Console, day: date, events: Sequence[Event], sendings: Sequence[Sending], speed: float) -> None:
    counts = Counter(sending.delivery for sending in sendings)
    deliveries = [delivery for delivery in Delivery if delivery != Delivery.IN_TIME]
    unusual = ", ".join(f"{counts[delivery]:,} {delivery}" for delivery in deliveries)
    seconds = (sendings[-1].at - sendings[0].at).total_seconds() / speed
    console.print(
        f"Replay of {day}, the day after the newest release: {len(events):,} events, of which {unusual}; at"
        f" {speed:,.0f} times their speed, {seconds:.0f} s",
        style="bold",
        markup=False,
    )


@contextmanager
def _brokers(console: Console) -> Iterator[str]:
    """The brokers that MILLRACE_KAFKA names, or the embedded one, started unless it runs."""
    if named := settings.kafka():
        console.print(f"  The brokers are {named} ({KAFKA})", markup=False)
        yield named
        return
    if broker.is_running():
        console.print(f"  The embedded broker, for demos, runs at {broker.url()} already", markup=False)
        yield broker.url()
        return
    broker.build()
    with processes.running("broker") as component:
        processes.wait_until_ready(component)
        console.print(
            f"  The embedded broker, for demos, runs at {broker.url()}. {KAFKA} names another one", markup=False
        )
        yield broker.url()


@contextmanager
def _kafka(urls: str) -> Iterator[None]:
    """Within it, this process and those that it starts use these brokers."""
    former = os.environ.get(KAFKA)
    os.environ[KAFKA] = urls
    try:
        yield
    finally:
        if former is None:
            del os.environ[KAFKA]
        else:
            os.environ[KAFKA] = former


def _create_topic(console: Console, table: Table) -> None:
    """Create the table's topic unless there is one."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    from etl.sources.kafka import CLIENT_LOG, configuration

    topic = table.topic.name if table.topic else ""
    admin = AdminClient(configuration(), logger=CLIENT_LOG)
    try:
        if topic not in admin.list_topics(timeout=TOPIC_SECONDS).topics:
            admin.create_topics([NewTopic(topic, PARTITIONS, -1)])[topic].result(TOPIC_SECONDS)
            console.print(f"  Created the topic {topic} with {PARTITIONS} partitions", markup=False)
            _begin_anew(table)
    except KafkaException as error:
        raise ReplayError(
            f"the topic {topic} cannot be created at {settings.kafka()}: {error.args[0].str()}. See that {KAFKA} and"
            " MILLRACE_KAFKA_CONF are right and that this user may create topics, or create it"
        ) from None


def _begin_anew(table: Table) -> None:
    """Let a table that has read a topic of this name, which was removed with its broker, read the new one."""
    from etl.sources import offsets
    from etl.sources.kafka import Reader

    if offsets.identity_of(table) is None:
        return
    reader = Reader([table])
    try:
        pipeline.skip_messages(table, reader.identity(table), reader.ranges(table), run_ids.new())
    finally:
        reader.close()


def _replay(
    console: Console,
    table: Table,
    shown: Sequence[str],
    events: Sequence[Event],
    speed: float,
    seed: int,
    running: Sequence[processes.Running],
) -> list[Served]:
    """Send the day, and read what is served at instants of it once all has arrived."""
    from etl.sources.kafka import Reader, configuration

    reader = Reader([table])

    def lags() -> list[Lag]:
        of_tables = list(reader.lags())
        return [*of_tables, *stream_lags.of_views(of_tables)]

    def check() -> None:
        for component in running:
            component.ensure_lives()

    replay = Replay(console, TopicSender(table, configuration()), lags, check, Watched.busiest(shown, events))
    try:
        replay.send(schedule(events, seed), speed)
        replay.drain()
    finally:
        reader.close()
    return comparison.serve_instants(events, _day(events), seed)


def _day(events: Sequence[Event]) -> datetime:
    """The midnight at which the day begins."""
    return midnight(max(event.at for event in events).date())


def _services(console: Console) -> Services:
    """Airflow and the feature server, started unless they run."""
    return services.up(lambda message: console.print(f"  {message}", markup=False))


def _run_batch(console: Console, airflow: Services | None, day: date, events: Sequence[Event]) -> None:
    """Run the days of the events and serve the release: as a DAG over REST, or in this process without Airflow.
    DemoError if the DAG's run fails.
    """
    start, end = min(event.at for event in events).date(), day + timedelta(days=1)
    with demo.timed(console, f"Run of [{start}, {end}) {'over REST' if airflow else 'in this process'}"):
        if airflow:
            demo.watch(console, demo.Run.trigger(airflow, {"start": str(start), "end": str(end)}))
        else:
            pipeline.run_all(str(start), str(end), run_ids.new())
            pipeline.serve(release.numbers()[-1])
    made = release.read()
    console.print(f"Release {made.number} is served: features known up to {made.horizon}", markup=False)


def _compare(console: Console, served: Sequence[Served]) -> bool:
    with demo.timed(console, "Comparison of what was served with the release, over the Feast SDK"):
        results = list(comparison.compare(served))
    grid = show.Grid("view", "entities", "values compared", "differ", title="Replay and batch")
    for result in results:
        grid.add_row(result.view, f"{result.entities:,}", f"{result.values:,}", f"{result.differing:,}")
    console.print(grid)
    for result in results:
        _print_differences(console, result)
    values, differing = sum(result.values for result in results), sum(result.differing for result in results)
    same = differing == 0 and values > 0
    console.print(
        f"Replay {'=' if same else 'is not'} batch: {values:,} values of {len(results)} views compared,"
        f" {differing:,} differ.",
        style="green" if same else "red",
        markup=False,
    )
    return same


def _print_differences(console: Console, result: Comparison) -> None:
    for difference in result.examples:
        row = ", ".join(f"{name} {value}" for name, value in difference.row.items())
        console.print(
            f"  {difference.feature} of {row}: served {difference.served}, computed {difference.computed}", markup=False
        )
