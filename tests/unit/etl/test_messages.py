"""Messages and CSV cells that are made to break a parser: rejected rows with short reasons, and never an error."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from contracts.columns import AUDIT_COLUMNS, STREAM_COLUMNS
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, Layer, Table, Topic, decimal
from etl.bronze import spark_stream
from etl.bronze.stream import with_added_columns
from etl.sources import landing, messages
from etl.sources.landing import LandedFile, Rejected
from etl.sources.messages import Message

DAY = date(2031, 1, 1)
TABLE = Table(
    layer=Layer.BRONZE,
    name="things",
    doc="Things",
    grain="one row per thing",
    owner="nobody",
    freshness=timedelta(days=1),
    topic=Topic("things"),
    time_column="at",
    columns=(
        Column("whole", LONG, "A number"),
        Column("real", DOUBLE, "A number"),
        Column("money", decimal(12, 2), "An amount"),
        Column("share", decimal(38, 38), "An amount"),
        Column("flag", BOOLEAN, "A flag"),
        Column("day", DATE, "A day"),
        Column("at", TIMESTAMP, "The time of the event"),
        Column("other", TIMESTAMP, "Another time"),
        Column("text", STRING, "A text"),
        *AUDIT_COLUMNS,
        *STREAM_COLUMNS,
    ),
)
NAMES = [column.name for column in TABLE.columns if not column.name.startswith("_")]
CELLS = {
    "a giant exponent": "1e1000000",
    "a giant negative number": "-1E1000000",
    "an exponent beyond int32": "1e2147483648",
    "an exponent beyond int64": "1e99999999999999999999",
    "a tiny number": "1e-1000000",
    "many digits": "9" * 50,
    "ten million digits": "9" * 10_000_000,
    "many digits after the point": f"0.{'0' * 5000}1",
    "beyond int64": "9223372036854775808",
    "below int64": "-9223372036854775809",
    "not a number": "NaN",
    "infinity": "-Infinity",
    "the year 0": "0000-01-01T00:00:00Z",
    "the day 0": "0000-01-01",
    "the year 10000": "10000-01-01T00:00:00Z",
    "no zone": "2031-01-01T00:00:00+99:99",
}
FITS = {
    "real": {"a tiny number", "many digits", "many digits after the point", "beyond int64", "below int64"},
    "text": {*CELLS},
}
"""Cells that a column can hold. A double rounds them."""


def rejected(name: str, content: Any) -> tuple[Rejected, ...]:
    """The rejected rows of a message or file; its other rows can be read by Python, and so by anything."""
    rows = content.rows.to_pylist()
    assert len(rows) + len(content.rejected) == 1
    assert all(row[name] is not None for row in rows)
    return tuple(content.rejected)


@pytest.mark.parametrize("form", ["number", "string", "csv"])
@pytest.mark.parametrize("case", CELLS)
def test_a_monstrous_cell_is_a_row_or_a_rejected_one(tmp_path: Path, case: str, form: str) -> None:
    cell = CELLS[case]
    for name in NAMES if len(cell) < 10_000 else ("whole", "money", "at"):
        if form == "csv":
            path = tmp_path / "things.csv"
            path.write_text(f"{','.join(NAMES)}\n{','.join(cell if other == name else '' for other in NAMES)}\n")
            bad = rejected(name, landing.read(TABLE, LandedFile(path, "things/2031-01-01/things.csv", DAY)))
        else:
            value = cell if form == "number" else json.dumps(cell)
            bad = rejected(name, messages.decode(TABLE, [Message(0, 7, f'{{"{name}": {value}}}'.encode())], DAY))
        assert bool(bad) == (case not in FITS.get(name, ()) or _is_no_json_of(name, case, form)), name
        assert all(reason and len(reason) < 250 for row in bad for reason in row.reasons)


def _is_no_json_of(name: str, case: str, form: str) -> bool:
    """Whether the message fails as JSON: bare text, or a number where text belongs."""
    return form == "number" and (name == "text" or not CELLS[case].lstrip("-")[:1].isdigit())


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"text": "\\udc00"}', "text is not text: half of a surrogate pair stands alone"),
        (b'{"more": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "it is nested too deeply"),
        (b'{"more": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001, "it is nested too deeply"),
        (b'{"text": {"a": "' + b"x" * 10_000_000 + b'"}}', "text is an object, not a string"),
        (b"9" * 10_000_000, "its JSON is a long number, not an object"),
        (b'{"whole": ' + b"9" * 10_000_000 + b"}", "whole is '99999"),
        (b'"' + b"\\ud800" * 1_000_000, r"it is not JSON: Invalid \uXXXX escape at character"),
    ],
    ids=["surrogate", "arrays", "objects", "large object", "large number", "large cell", "torn surrogates"],
)
def test_a_monstrous_message_is_rejected(value: bytes, reason: str) -> None:
    good = Message(0, 8, b'{"text": "good"}')
    decoded = messages.decode(TABLE, [Message(0, 7, value), good], DAY)
    assert [row["text"] for row in decoded.rows.to_pylist()] == ["good"]
    [bad] = decoded.rejected
    assert bad.reasons[0].startswith(reason)
    json.loads(bad.row)


NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.decimals().map(str),
    st.from_regex(r"-?[0-9]{1,3}(\.[0-9]{0,3})?([eE][+-]?[0-9]{0,3})?", fullmatch=True),
)
TEXTS = st.one_of(st.text(max_size=3).map(json.dumps), st.text(max_size=3).map(lambda text: f'"{text}"'))
VALUES = st.one_of(
    st.sampled_from(["true", "false", "null", "NaN", "[]", "[1]", '{"text": 1}', '["text", "text"]', '"2031-01-01"']),
    NUMBERS,
    TEXTS,
)
FIELDS = st.one_of(
    st.tuples(st.sampled_from([*NAMES, "more"]).map(json.dumps), st.sampled_from([":", ": ", " :\n"]), VALUES).map(
        "".join
    ),
    st.text(max_size=4),
)
OBJECTS = st.builds(
    lambda fields, start, end, torn: f"{start}{{{', '.join(fields)}}}{end}".encode("utf-8", "surrogatepass")[torn:],
    st.lists(FIELDS, max_size=4),
    st.sampled_from(["", " ", "\ufeff", "\x0c"]),
    st.sampled_from(["", "\n", "}", ","]),
    st.sampled_from([0, 0, 0, 1]),
)


@settings(max_examples=1000)
@given(st.one_of(OBJECTS, st.binary(max_size=20)))
@example(b'{"real": -0, "more": 0}')
@example(b'{"real": -0.0, "whole": 10, "money": 1e2}')
@example(b'{"whole": 1, "whole": 2}')
@example(b'{"more": {"a": 1}, "whole": 2, "whole": 3, "a": "b"}')
@example(b'{"more": [{"a": 1, "a": 2}], "whole": 2}')
@example(b'{"text": "\xed\xa0\x80"}')
@example(b'{"text": "\x7f\x1f"}')
@example(b'{"text": "\\u0000"}')
@example(b'{"flag": true, "whole": 99999999999999999999, "text": "\xc3\xa4"}')
def test_the_quick_reader_says_what_the_other_says_or_nothing(value: bytes) -> None:
    columns = [column for column in TABLE.columns if column.name in NAMES]
    quickly = messages._flat_cells(value, [(column.source_name, messages._kinds(column)) for column in columns])
    if quickly is not None:
        assert quickly == messages._cells(value, columns)


def test_common_messages_are_read_quickly() -> None:
    columns = [column for column in TABLE.columns if column.name in NAMES]
    kinds = [(column.source_name, messages._kinds(column)) for column in columns]
    value = '{"whole": 7, "real": 1.50, "money": 0, "flag": true, "day": "2031-01-01", "text": "ä", "more": null}'
    cells = ["7", "1.50", "0", "true", "2031-01-01", None, None, "ä"]
    assert messages._flat_cells(value.encode(), kinds) == [*cells[:3], None, *cells[3:]]


def test_poison_here_and_there_costs_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad cell in a thousand, of every kind. Casts are counted, not timed: halving takes ten for each."""
    kinds = (*[*CELLS.values()][:5], "abc", "2031-02-30", "2031-01-01T00:00:00+25:00")
    columns = ("whole", "real", "money", "day", "at")
    casts, cast = 0, landing._cast_all

    def counted(*arguments: Any) -> Any:
        nonlocal casts
        casts += 1
        return cast(*arguments)

    monkeypatch.setattr(landing, "_cast_all", counted)
    good = {"whole": "1", "real": "1.5", "money": "2.50", "day": "2031-01-01", "at": "2031-01-01T00:00:00Z"}
    rows = [good | {"whole": str(number)} for number in range(20_000)]
    for number in range(0, 20_000, 1000):
        rows[number] |= {columns[number // 1000 % 5]: kinds[number // 1000 % 8]}
    batch = [Message(0, offset, json.dumps(row).encode()) for offset, row in enumerate(rows)]
    decoded = messages.decode(TABLE, batch, DAY)
    assert (len(decoded.rejected), decoded.rows.num_rows) == (20, 20_000 - 20)
    assert casts < 200


def test_an_executor_returns_rows_and_rejected_messages_together() -> None:
    """What it returns is parted by reasons, and both parts are what one process makes of the same messages."""
    loaded_at = datetime(2031, 1, 1, 12, tzinfo=UTC)
    values = (b'{"text": "good", "at": "2031-01-01", "money": 1.25}', b"poison", b'{"whole": "1e9"}', b'{"flag": true}')
    batch = [Message(3, offset, value) for offset, value in enumerate(values)]
    together = spark_stream.decoded_batch(TABLE, batch, loaded_at).to_pylist()
    decoded = messages.decode(TABLE, batch, DAY)
    good = [row for row in together if row["_reasons"] is None]
    bad = [spark_stream._rejected(row) for row in together if row["_reasons"] is not None]
    assert bad == decoded.rejected
    alone = with_added_columns(TABLE, decoded, loaded_at).to_pylist()
    assert [{name: row[name] for name in TABLE.column_names} for row in good] == alone
    assert [(row["_partition"], row["_offset"], row["_loaded_at"]) for row in good] == [
        (3, 0, loaded_at),
        (3, 3, loaded_at),
    ]
