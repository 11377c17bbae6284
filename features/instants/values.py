"""Features of some keys at some instants, as a training set has them, in the types of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from contracts.model import Table
from features import queries, views
from features.instants import offline
from features.instants.declaration import of_view
from features.lake_reader import LakeReader
from lake.publishing import arrow_type
from lake.release import Release

Sample = tuple[tuple[Any, ...], datetime]


def at(table: Table, release: Release, samples: Sequence[Sample]) -> Mapping[Sample, dict[str, Any]]:
    """The features of each sample, (key, instant); no entry for a key without an event before."""
    view, declared = views.view(table.name), of_view(views.view(table.name))
    names = [column.name for _, _, column in declared.features()]
    reader = LakeReader(release)
    columns: dict[str, pa.Array] = {
        "__row": pa.array(range(len(samples)), pa.int64()),
        "__at": pa.array([queries.microseconds(instant) for _, instant in samples], pa.int64()),
    }
    for n, column in enumerate(declared.key):
        columns[column.name] = pa.array([key[n] for key, _ in samples], arrow_type(column.type))
    reader.connection.register("labels", pa.table(columns))
    sql = offline.as_of(reader.table(table.qualified), view.batch_source, view, names, as_served=False)
    return {
        samples[row[0]]: dict(zip(names, row[1:], strict=True)) for row in reader.connection.execute(sql).fetchall()
    }
