"""Events of a tail, merged with a state: each identity once, by the earlier day, then the later message."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.model import DOUBLE, LONG, STRING, Column
from features.instants import tail
from features.instants.state import Cells, State
from features.instants.tail import DAY

COLUMNS = (Column("amount", LONG, "Amount"), Column("shop", STRING, "Shop"), Column("weight", DOUBLE, "Weight"))
ALL = frozenset(range(len(COLUMNS)))
Event = tuple[int, int, Any, Any, Any]
"""Instant, identity, cells."""

cells = st.tuples(
    st.none() | st.integers(-(2**62), 2**62), st.none() | st.text(max_size=3), st.none() | st.floats(allow_nan=False)
)
events = st.tuples(st.integers(0, 3 * DAY), st.integers(0, 5), cells).map(lambda e: (e[0], e[1], *e[2]))


def packed_state(rows: list[Event]) -> State:
    ordered = sorted(rows)
    columns = [_column([row[2 + n] for row in ordered], column) for n, column in enumerate(COLUMNS)]
    at, ids = (np.array([row[n] for row in ordered], np.int64).tobytes() for n in (0, 1))
    return State("d", 0, at, columns, ids)


def _column(values: list[Any], column: Column) -> Cells:
    valid = np.array([value is not None for value in values], np.uint8).tobytes()
    if column.type == STRING:
        return Cells(b"", [value or "" for value in values], valid)
    dtype = np.float64 if column.type == DOUBLE else np.int64
    return Cells(np.array([value or 0 for value in values], dtype).tobytes(), None, valid)


def unpacked(times: np.ndarray, columns: Any) -> list[Event]:
    rows = []
    for n, at in enumerate(times.tolist()):
        values = []
        for column, own in zip(COLUMNS, columns, strict=True):
            dtype = np.float64 if column.type == DOUBLE else np.int64
            value = own.texts[n] if own.texts is not None else np.frombuffer(own.numbers, dtype)[n].item()
            values.append(value if own.valid is None or own.valid[n] else None)
        rows.append((at, *values))
    return rows


def counted(state: list[Event], messages: list[tuple[int, int, Event]], since: dict[int, int]) -> list[Any]:
    """The events that count, by a loop over all deliveries in their order."""
    counts: dict[int, Event] = {event[1]: event for event in state}
    new = [(offset, partition, event) for partition, offset, event in messages if offset >= since.get(partition, 0)]
    for _, _, event in sorted(new, key=lambda message: message[:2]):
        former = counts.get(event[1])
        if former is None or event[0] // DAY <= former[0] // DAY:
            counts[event[1]] = event
    return sorted(((event[0], *event[2:]) for event in counts.values()), key=repr)


def block(rows: list[Any]) -> bytes:
    """All rows in one Block."""
    return tail.pack(rows, COLUMNS, [len(rows)])[0]


@given(st.lists(st.lists(events.map(lambda event: (*event[:2], 7, *event[2:])), min_size=1, max_size=4), min_size=1))
def test_entities_are_packed_together_as_alone(members: list[list[Any]]) -> None:
    together = tail.pack([row for rows in members for row in rows], COLUMNS, [len(rows) for rows in members])
    assert together == [block(rows) for rows in members]


def test_events_without_cells_are_packed() -> None:
    blocks = tail.pack([(5, 1, 0), (6, 2, 1)], (), [1, 1])
    assert tail.recent([(0, 1, packed) for packed in blocks], {}, None, (), ALL).at.tolist() == [5, 6]


@given(
    st.lists(events, max_size=5, unique_by=lambda event: event[1]),
    st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3), st.lists(events, min_size=1, max_size=4)), max_size=4),
    st.dictionaries(st.integers(0, 1), st.integers(0, 12)),
)
def test_each_identity_counts_once(state: list[Event], batches: list[Any], since: dict[int, int]) -> None:
    entries, messages, offsets = [], [], {0: 0, 1: 0}
    for partition, skipped, members in batches:
        rows = []
        for event in members:
            offsets[partition] += skipped
            rows.append((event[0], event[1], offsets[partition], *event[2:]))
            messages.append((partition, offsets[partition], event))
        entries.append((partition, offsets[partition], block(rows)))
    recent = tail.recent(entries, since, None, COLUMNS, ALL)
    assert [*recent.at] == sorted(recent.at)
    merged = tail.merge(packed_state(state), recent)
    rows = [row for part in merged for row in unpacked(*part)]
    assert sorted(rows, key=repr) == counted(state, messages, since)


def test_columns_that_are_not_needed_are_not_read() -> None:
    entries = [(0, 1, block([(5, 1, 0, 7, "a", 1.5), (3, 2, 1, 8, "b", 2.5)]))]
    recent = tail.recent(entries, {}, None, COLUMNS, {0})
    assert [*recent.at] == [3, 5]
    assert np.frombuffer(recent.columns[0].numbers, np.int64).tolist() == [8, 7]
    assert recent.columns[1:] == [Cells(b""), Cells(b"")]


@pytest.mark.parametrize("values", [[tail.LARGE], [-tail.LARGE, 1]])
def test_cells_whose_sum_may_exceed_64_bits_say_so(values: list[int]) -> None:
    large = block([(n, n, n, value, "", 0.0) for n, value in enumerate(values)])
    assert tail.recent([(0, 9, large)], {}, None, COLUMNS, ALL).columns[0].wide
    small = block([(0, 0, 0, 3, "", 0.0)])
    assert not tail.recent([(0, 9, small)], {}, None, COLUMNS, ALL).columns[0].wide


def test_events_from_an_offset_on_are_left_out() -> None:
    entries = [(p, 9, block([(5, p, 3, 1, "", 0.0), (6, p + 9, 9, 2, "", 0.0)])) for p in (0, 1)]
    recent = tail.recent(entries, {0: 4}, {0: 10, 1: 9}, COLUMNS, ALL)
    assert sorted(zip(recent.at.tolist(), recent.ids.tolist(), strict=True)) == [(5, 1), (6, 9)]
