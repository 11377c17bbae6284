"""The command line of topics: `millrace stream lag`, `millrace stream skip TABLE`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table as Grid

from contracts import catalog
from contracts.model import Layer, Table
from millrace import pipeline, run_ids, settings_cli, show

app = typer.Typer(help="Look after the Kafka topics of bronze tables.", rich_markup_mode=None)


@app.command()
def lag(as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False) -> None:
    """Show how far each table is behind its topic.

    By partition: the next offset that the table reads, the partition's end, and the messages between them.
    """
    from etl.sources.kafka import Reader
    from millrace import lake_writer

    settings_cli.warn_of_unknown()
    reader = Reader(lake_writer.tables())
    lags = list(reader.lags())
    reader.close()
    if as_json:
        print(json.dumps([{**asdict(lag), "messages": lag.messages} for lag in lags], indent=1))
        return
    grid = Grid("table", "topic", "partition", "read up to", "ends at", "lag", title="Topics")
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


def _streamed(name: str) -> Table:
    table = catalog.table(name)
    if table.layer != Layer.BRONZE or table.topic is None:
        raise ValueError(f"{name} has no topic. Give the name of a bronze table with topic=Topic(...)")
    return table
