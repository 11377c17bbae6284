"""The command line of topics: `millrace stream lag`, `millrace stream skip TABLE`, `millrace stream replay`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table as Grid

from contracts import catalog
from contracts.model import Layer, Table
from millrace import pipeline, run_ids, settings_cli, show, stream_lags

app = typer.Typer(help="Look after the Kafka topics of bronze tables.", rich_markup_mode=None)


@app.command()
def lag(as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False) -> None:
    """Show how far each table, and each view that counts messages at once, is behind its topic.

    By partition: the next offset that it reads, the partition's end, and the messages between them.
    """
    from etl.sources.kafka import Reader
    from features.streaming import tails
    from millrace import lake_writer

    settings_cli.warn_of_unknown()
    reader = Reader(lake_writer.tables())
    of_tables = list(reader.lags())
    reader.close()
    lags = [*of_tables, *stream_lags.of_views(of_tables)]
    if as_json:
        print(json.dumps([{**asdict(lag), "messages": lag.messages} for lag in lags], indent=1))
        return
    grid = Grid("table or view", "topic", "partition", "read up to", "ends at", "lag", title="Topics")
    for partition in lags:
        grid.add_row(
            partition.table,
            partition.topic,
            str(partition.partition),
            "nothing yet" if partition.next_offset is None else f"{partition.next_offset:,}",
            f"{partition.end:,}",
            f"{partition.messages:,}",
        )
    show.console().print(grid)
    for table, reason in tails.obstacles():
        show.console().print(f"{table.name} counts messages once a release has them: {reason}", markup=False)


@app.command()
def skip(name: Annotated[str, typer.Argument(metavar="TABLE", help="Such as bronze.purchases.")]) -> None:
    """Read on from the first message that a topic still has.

    For messages that are gone, after a look at which: the lake writer names them.
    """
    from etl.sources.kafka import Reader

    table = _streamed(name)
    reader = Reader([table])
    identity, ranges = reader.identity(table), reader.ranges(table)
    reader.close()
    skipped = pipeline.skip_messages(table, identity, ranges, run_ids.new())
    for partition, offset in sorted(skipped.items()):
        print(f"{table.qualified} reads partition {partition} from {offset:,} on")
    if not skipped:
        print(f"{table.qualified} can go on where it is")


@app.command()
def replay(
    speed: Annotated[float, typer.Option(min=1, help="How many times as fast as it happened.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Which messages come late or twice, and the instants to compare.")] = 1,
    airflow: Annotated[bool, typer.Option(help="Run the batch as a DAG over REST, or else in this process.")] = True,
) -> None:
    """Replay the day after the newest release through Kafka.

    Then run it as a batch, and compare what was served meanwhile with what the batch computes: exit status 1 if a value
    differs. Brokers are those of MILLRACE_KAFKA, or an embedded one for demos.
    """
    from millrace.replay import command

    settings_cli.warn_of_unknown()
    if not command.run(speed, seed, airflow):
        raise typer.Exit(1)


def _streamed(name: str) -> Table:
    table = catalog.table(name)
    if table.layer != Layer.BRONZE or table.topic is None:
        raise ValueError(f"{name} has no topic. Give the name of a bronze table with topic=Topic(...)")
    return table
