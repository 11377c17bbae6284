"""Labels from a user (a frame, an Arrow table, a file or SQL), converted to one Arrow table with an instant in every
row.
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
from features.views import REQUEST_TIME
from lake import settings
from lake.release import Release

LabelInput = Any
"""A pandas DataFrame, an Arrow table, a path, or a string: a file name if it ends in one of FILES, else SQL over the
release's tables.
"""
FILES = (".parquet", ".csv")


def table(label_input: LabelInput, release: Release, service: Service) -> pa.Table:
    """The labels, typed. A request time that an on-demand view needs defaults to the label's own instant. SQL reads the
    tables of `release`.
    """
    rows = _raw(label_input, release)
    if not rows.num_rows:
        raise LabelError(
            "there are no labels: the label set is empty. Give at least one row with the join keys and event_timestamp"
        )
    rows = labels.check(rows, service.join_keys, _origin(label_input)).table
    if EVENT_TIMESTAMP not in rows.column_names:
        raise LabelError(
            f"labels have no {EVENT_TIMESTAMP}; they have {', '.join(rows.column_names)}. Give each label its instant"
            " in a column of that name, in SQL with AS"
        )
    _ensure_instants(rows[EVENT_TIMESTAMP])
    for name in service.request:
        if name not in rows.column_names and name != REQUEST_TIME:
            raise LabelError(
                f"labels have no {name}, which an on-demand feature of {service.name} takes from the request. They have"
                f" {', '.join(rows.column_names)}. Add what each label's request would say, in a column of that name"
            )
        if name not in rows.column_names:
            rows = rows.append_column(name, rows[EVENT_TIMESTAMP])
        elif pa.types.is_date(rows[name].type):
            rows = rows.set_column(rows.column_names.index(name), name, rows[name].cast(pa.timestamp("us")))
    clash = sorted({*service.columns} & {*rows.column_names})
    if clash:
        raise LabelError(
            f"labels already have {', '.join(clash)}, which is also the name of a feature of {service.name}. Rename the"
            " column"
        )
    return columns.plain(rows)


def from_request(text: str) -> Path | str:
    """Labels from a network request: SQL as it is, or the path of a file below `settings.labels()`, symbolic links
    followed.

    LabelError for any other path, whether or not it exists. A relative path starts at that folder.
    """
    if not _names_file(text):
        return text
    folder = settings.labels()
    try:
        path = (folder / text.strip()).resolve()
        is_allowed = path.is_relative_to(folder) and path.is_file()
    except (OSError, ValueError, RuntimeError):  # a name that is too long, a zero byte, a loop of links
        is_allowed = False
    if not is_allowed:
        raise LabelError(
            f"labels are {text.strip()!r}, and there is no such file in the folder of labels, {folder}. Over REST and"
            " in Airflow's UI, labels are one SELECT, or a file below that folder (MILLRACE_LABELS moves it). Put the"
            " file there, or run `millrace training-set create` on the machine, which takes any path"
        )
    return path


def _names_file(text: str) -> bool:
    """Whether the string names a file rather than being SQL. Every caller must agree on this, because a path may be
    forbidden.
    """
    return text.strip().lower().endswith(FILES)


def _origin(label_input: LabelInput) -> Origin:
    if isinstance(label_input, str) and not _names_file(label_input):
        return labels.SQL
    if isinstance(label_input, Path | str):
        name = Path(str(label_input).strip()).name
        return labels.parquet_file(name) if name.lower().endswith(".parquet") else labels.csv_file(name)
    return labels.FRAME


def _raw(label_input: LabelInput, release: Release) -> pa.Table:
    if isinstance(label_input, pa.Table):
        return label_input
    if isinstance(label_input, pd.DataFrame):
        return labels.from_frame(label_input)
    if not isinstance(label_input, Path | str):
        raise LabelError(
            f"labels are {type(label_input).__name__}. Give a pandas DataFrame, an Arrow table, the path of a .parquet"
            " or .csv file, or SQL"
        )
    if isinstance(label_input, Path) or _names_file(label_input):
        return _file(Path(str(label_input).strip()).expanduser())
    return sandbox.select(label_input, release)


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
    """The rows; LabelError where a cell spans lines: after an unclosed quote it would swallow the labels on those
    lines.
    """
    table = pa.csv.read_csv(path)
    for name, column in zip(table.column_names, table.columns, strict=True):  # two may have one name
        if pa.types.is_string(column.type) and len(
            broken := pc.indices_nonzero(pc.match_substring_regex(column, r"[\r\n]"))
        ):
            raise LabelError(
                f"{path} has a line break in column {name} of label {broken[0].as_py() + 1}: is a quote not closed?"
                " Close it, or double it where it belongs to the cell. Labels whose text has line breaks come as"
                " .parquet"
            )
    return table


def _ensure_instants(instants: pa.ChunkedArray) -> None:
    missing = pc.indices_nonzero(instants.is_null())
    if len(missing):
        raise LabelError(
            f"{len(missing):,} of {len(instants):,} labels have no {EVENT_TIMESTAMP} (the first is row"
            f" {missing[0].as_py() + 1}). Without an instant, nothing says what was known: fill it in, or drop these"
            " rows"
        )
