"""Labels as a user gives them (a frame, an Arrow table, a file, SQL), made into one Arrow table with an instant in
every row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from features.offline import labels
from features.offline.labels import EVENT_TIMESTAMP, LabelError, Origin
from features.training import columns, sandbox
from features.training.services import Service
from lake import settings
from lake.release import Release

Given = Any
"""A pandas DataFrame, an Arrow table, a path, or text, which is SQL over the release's tables, unless it ends like a
file's name.
"""
FILES = (".parquet", ".csv")


def table(given: Given, release: Release, service: Service) -> pa.Table:
    """The labels, typed; where an on-demand view asks for a request time and they have none, it is the label's own
    instant. SQL sees the tables of `release`.
    """
    found = _raw(given, release)
    if not found.num_rows:
        raise LabelError(
            "there are no labels: the label set is empty. Give at least one row with the join keys and event_timestamp"
        )
    found = labels.check(found, service.join_keys, _origin(given)).table
    _refuse_without_instant(found[EVENT_TIMESTAMP])
    for name in service.request:
        if name not in found.column_names:
            found = found.append_column(name, found[EVENT_TIMESTAMP])
        elif pa.types.is_date(found[name].type):
            found = found.set_column(found.column_names.index(name), name, found[name].cast(pa.timestamp("us")))
    clash = sorted({*service.columns} & {*found.column_names})
    if clash:
        raise LabelError(
            f"labels already have {', '.join(clash)}, which is also the name of a feature of {service.name}. Rename the"
            " column"
        )
    return columns.plain(found)


def from_request(text: str) -> Path | str:
    """Labels as they came over a network: SQL as it is, and a path only if it leads to a file below
    `settings.labels()`, symbolic links followed.

    LabelError for any other path, whether or not there is a file. A relative path starts at that folder.
    """
    if not _names_file(text):
        return text
    folder = settings.labels()
    try:
        path = (folder / text.strip()).resolve()
        known = path.is_relative_to(folder) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # a name that is too long, a zero byte, a loop of links
        known = False
    if not known:
        raise LabelError(
            f"labels are {text.strip()!r}, and there is no such file in the folder of labels, {folder}. Over REST and"
            " in Airflow's UI, labels are one SELECT, or a file below that folder (MILLRACE_LABELS moves it). Put the"
            " file there, or run `millrace training-set create` on the machine, which takes any path"
        )
    return path


def _names_file(text: str) -> bool:
    """Whether text is the name of a file with labels, and no SQL; the same for everybody, because a path may be
    forbidden.
    """
    return text.strip().lower().endswith(FILES)


def _origin(given: Given) -> Origin:
    if isinstance(given, str) and not _names_file(given):
        return labels.SQL
    if isinstance(given, Path | str):
        name = Path(str(given).strip()).name
        return labels.parquet_file(name) if name.lower().endswith(".parquet") else labels.csv_file(name)
    return labels.FRAME


def _raw(given: Given, release: Release) -> pa.Table:
    if isinstance(given, pa.Table):
        return given
    if isinstance(given, pd.DataFrame):
        return labels.from_frame(given)
    if not isinstance(given, Path | str):
        raise LabelError(
            f"labels are {type(given).__name__}. Give a pandas DataFrame, an Arrow table, the path of a .parquet or"
            " .csv file, or SQL"
        )
    if isinstance(given, Path) or _names_file(given):
        return _file(Path(str(given).strip()).expanduser())
    return sandbox.select(given, release)


def _file(path: Path) -> pa.Table:
    if not path.exists():
        raise LabelError(f"there is no file {path} with labels. Give the path of a .parquet or .csv file, or SQL")
    try:
        return pq.read_table(path) if path.suffix.lower() == ".parquet" else _csv(path)
    except pa.ArrowInvalid as error:
        if path.suffix.lower() == ".csv" and not path.read_text().strip():
            raise LabelError(
                f"{path} is empty: there are no labels. Give a line of column names and at least one row"
            ) from None
        raise LabelError(
            f"{path} cannot be read as {path.suffix[1:].lower()}: {str(error).splitlines()[0].rstrip('.')}. Write the"
            " file again"
        ) from error


def _csv(path: Path) -> pa.Table:
    """The rows; LabelError where a cell goes over several lines, as one does whose quote is not closed: it would hold
    the labels of these lines.
    """
    found = pa.csv.read_csv(path)
    for name, column in zip(found.column_names, found.columns, strict=True):  # two may have one name
        if pa.types.is_string(column.type) and len(
            broken := pc.indices_nonzero(pc.match_substring_regex(column, r"[\r\n]"))
        ):
            raise LabelError(
                f"{path} has a line break in column {name} of label {broken[0].as_py() + 1}: is a quote not closed?"
                " Close it, or double it where it belongs to the cell. Labels whose text has line breaks come as"
                " .parquet"
            )
    return found


def _refuse_without_instant(instants: pa.ChunkedArray) -> None:
    missing = pc.indices_nonzero(instants.is_null())
    if len(missing):
        raise LabelError(
            f"{len(missing):,} of {len(instants):,} labels have no {EVENT_TIMESTAMP} (the first is row"
            f" {missing[0].as_py() + 1}). Nothing can be said to be known at no instant: fill it in, or drop these rows"
        )
