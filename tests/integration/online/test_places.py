"""The three places by themselves: every kind of value comes back as it was, the newest event stays whatever the order
of writes, and a generation that is gone is never an absent value.
"""

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy
import psycopg
import pytest
from feast.types import Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.online import backends, generation, sqlite
from features.online.generation import (
    GenerationGoneError,
    GenerationMetadata,
    OnlineBackend,
    OnlineStoreOwnedError,
    OnlineStoreUnfitError,
    RowSchema,
)
from features.online.postgres import HOME, BoundedConnection, PostgresBackend
from features.online.redis import RedisBackend
from features.online.sqlite import SqliteBackend
from features.online.store import PackedOnlineStore, Query, row_schema_of
from features.type_mapping import TYPE_MAPPINGS, UnsupportedTypeError
from lake.settings import online
from tests.unit.features.online.test_delta_changes import THINGS

DTYPES = {
    "whole": Int64,
    "small": Int32,
    "real": Float64,
    "short": Float32,
    "flag": Bool,
    "text": String,
    "raw": Bytes,
    "at": UnixTimestamp,
}
LAYOUT = RowSchema(
    "a view of 'every' \"kind\"",
    {"id": TYPE_MAPPINGS[Int64], "name": TYPE_MAPPINGS[String]},
    {name: TYPE_MAPPINGS[dtype] for name, dtype in DTYPES.items()},
)
ONE = RowSchema("one", {"id": TYPE_MAPPINGS[Int64]}, {"value": TYPE_MAPPINGS[Int64]})
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
INSTANTS = st.one_of(
    st.integers(-(2**61), 2**61),
    st.integers(1_500_000_000_000_000, 1_500_000_000_000_003),
    st.integers(2**53 - 2, 2**53 + 2),
)
KEYS = st.tuples(st.integers(-(2**63), 2**63 - 1), TEXT)
VALUES = {
    "whole": st.integers(-(2**63), 2**63 - 1),
    "small": st.integers(-(2**31), 2**31 - 1),
    "real": st.floats(allow_nan=False),
    "short": st.floats(width=32, allow_nan=False),
    "flag": st.booleans(),
    "text": TEXT,
    "raw": st.binary(max_size=20),
    "at": st.integers(-62_135_596_800, 253_402_300_799),
}
ROWS = st.dictionaries(
    KEYS, st.tuples(INSTANTS, st.none() | INSTANTS, *(st.none() | values for values in VALUES.values())), max_size=12
)
EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def published(place: OnlineBackend, row_schema: RowSchema, rows: list[Any], **about: Any) -> str:
    """A generation with these rows, in batches of five, in use."""
    with place.drafting("test") as draft:
        draft.load(row_schema, [rows[at : at + 5] for at in range(0, len(rows), 5)])
        draft.finish(GenerationMetadata(rows={row_schema.view: len(rows)}, **about))
        draft.publish()
    return draft.name


def traces(place: OnlineBackend, name: str) -> list[Any]:
    """What the place has of a generation, found without the place's own code."""
    if isinstance(place, SqliteBackend):
        return list(sqlite.folder().glob(f"*{name}*"))
    if isinstance(place, RedisBackend):
        return [
            *place.client.scan_iter(f"*{name}*"),
            *(key for key in place.client.hkeys("millrace:generations") if key == name.encode()),
        ]  # type: ignore[union-attr]
    with psycopg.connect(online()) as connection:
        return connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE %s", [f"%{name}%"]).fetchall()


def test_a_backend_that_serves_another_project_is_refused(place: OnlineBackend) -> None:
    """In every backend, a generation says which project materialized it; one of an older version says nothing."""
    generation.ensure_own(place, "arcade")
    for owner, refused in ((None, ()), ("arcade", ("bakery",)), ("bakery", ("arcade",))):
        with place.drafting("test") as draft:
            draft.finish(GenerationMetadata(project=owner))
            draft.publish()
        assert (place.metadata() or GenerationMetadata()).project == owner
        for project in ("arcade", "bakery"):
            if project in refused:
                with pytest.raises(OnlineStoreOwnedError, match=rf"project {owner}, and this is {project}"):
                    generation.ensure_own(place, project)
            else:
                generation.ensure_own(place, project)


def values(place: OnlineBackend, row_schema: RowSchema, keys: list[Any]) -> list[Any]:
    return place.session().reader().rows(row_schema, tuple(row_schema.features), keys)


def alike(found: Any) -> Any:
    """With types, so that 1 is not True and 1.0 is not 1."""
    return [(type(value), value) for value in found] if found is not None else None


@EXAMPLES
@given(ROWS)
def test_every_kind_of_value_comes_back_as_it_was(place: OnlineBackend, rows: dict[Any, Any]) -> None:
    published(place, LAYOUT, [[*key, *row] for key, row in sorted(rows.items())])
    found = values(place, LAYOUT, [*rows, (404, "nobody")])
    assert [alike(row) for row in found[:-1]] == [alike((row[0], *row[2:])) for row in rows.values()]
    assert found[-1] is None
    assert sorted(place.session().reader().keys(LAYOUT, None)) == sorted(rows)


WRITES = st.lists(
    st.lists(st.tuples(st.integers(1, 3), INSTANTS, st.none() | INSTANTS, st.integers(0, 99)), max_size=5), max_size=6
)


@EXAMPLES
@given(WRITES)
def test_the_newest_event_stays_whatever_the_order_of_writes(place: OnlineBackend, writes: list[Any]) -> None:
    """The rule by hand: an older event never wins; of the same event the one created later, or written later where one
    of the two does not say.
    """
    published(place, ONE, [])
    expected: dict[int, Any] = {}
    for write in writes:
        place.merge(ONE, write)
        for key, event, created, value in write:
            old = expected.get(key)
            if (
                old is None
                or event > old[0]
                or (event == old[0] and (created is None or old[1] is None or created >= old[1]))
            ):
                expected[key] = (event, created, value)
    assert values(place, ONE, [(1,), (2,), (3,)]) == [
        expected[key] and (expected[key][0], expected[key][2]) if key in expected else None for key in (1, 2, 3)
    ]


@EXAMPLES
@given(before=ROWS, after=ROWS)
def test_a_changed_generation_is_the_one_loaded_anew(
    place: OnlineBackend, before: dict[Any, Any], after: dict[Any, Any]
) -> None:
    former = published(place, LAYOUT, [[*key, *row] for key, row in sorted(before.items())])
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    with place.drafting("test") as draft:
        draft.copy_from(former)
        rows = draft.apply_changes(LAYOUT, changed, [[[*key, *after[key]] for key in changed if key in after]])
        draft.finish(GenerationMetadata())
        draft.publish()
    assert rows == len(after)
    keys = sorted({**before, **after})
    assert values(place, LAYOUT, keys) == [(after[key][0], *after[key][2:]) if key in after else None for key in keys]
    assert sorted(place.session().reader().keys(LAYOUT, None)) == sorted(after)
    assert [row and row[0] for row in place.open(former).rows(LAYOUT, ("text",), keys)] == [
        before[key][0] if key in before else None for key in keys
    ]


def test_a_large_view_is_found_again(place: OnlineBackend) -> None:
    """More rows than a batch, so that Redis spreads them."""
    with place.drafting("test") as draft:
        assert (
            draft.load(
                ONE,
                [[(key, 1, None, key * 2) for key in range(start, start + 5000)] for start in range(0, 20000, 5000)],
            )
            == 20000
        )
        draft.finish(GenerationMetadata())
        draft.publish()
    assert values(place, ONE, [(key,) for key in range(0, 20000, 97)]) == [(1, key * 2) for key in range(0, 20000, 97)]
    reader = place.session().reader()
    assert len(reader.keys(ONE, None)) == 20000
    some = reader.keys(ONE, 300)
    assert len({*some}) == 300
    assert {key for (key,) in some} <= {*range(20000)}


def test_a_feature_that_came_later_is_null_in_rows_from_before(place: OnlineBackend) -> None:
    published(place, ONE, [(1, 5, None, 10)])
    wider = RowSchema(
        "one", ONE.keys, {"first": TYPE_MAPPINGS[String], **ONE.features, "third": TYPE_MAPPINGS[Float64]}
    )
    reader = place.session().reader()
    assert reader.rows(wider, ("third", "value", "first"), [(1,)]) == [(5, None, 10, None)]
    place.merge(wider, [(2, 6, None, "a", 20, 0.5)])
    assert reader.rows(wider, ("third", "value", "first"), [(1,), (2,)]) == [(5, None, 10, None), (6, 0.5, 20, "a")]
    place.merge(ONE, [(2, 7, None, 21)])
    assert reader.rows(wider, ("value",), [(2,)]) == [(7, 21)]


def test_names_that_sql_uses_too_are_only_names(place: OnlineBackend) -> None:
    names = ("position", "k0", "requests", "a FROM b", "t", "SELECT %s {}")
    odd = RowSchema(
        "requests",
        {"id": TYPE_MAPPINGS[Int64], "key id": TYPE_MAPPINGS[Int64]},
        dict.fromkeys(names, TYPE_MAPPINGS[String]),
    )
    published(place, odd, [(key, key, key, None, *(f"{name} of {key}" for name in names)) for key in (1, 2, 3)])
    assert values(place, odd, [(3, 3), (9, 9), (1, 1)]) == [
        (3, *(f"{name} of 3" for name in names)),
        None,
        (1, *(f"{name} of 1" for name in names)),
    ]
    assert values(place, odd, [(2, 2)]) == [(2, *(f"{name} of 2" for name in names))]


def test_what_was_pushed_is_said(place: OnlineBackend) -> None:
    published(place, ONE, [], release=3)
    place.merge(ONE, [])
    place.merge(ONE, [(1, 5, None, 10)])
    about = place.metadata()
    assert about is not None
    assert (about.release, about.pushed) == (3, True)


def test_it_is_known_when_the_pointer_moved(place: OnlineBackend) -> None:
    assert place.published_at() is None
    moments = []
    for number in range(2):
        published(place, ONE, [(1, number, None, 10)])
        moments.append(place.published_at())
        time.sleep(1.1)  # Redis keeps whole seconds
    first, second = moments
    assert first is not None
    assert second is not None
    assert first < second
    assert abs((datetime.now(UTC) - second).total_seconds()) < 3600  # the servers' clocks are this machine's
    place.merge(ONE, [(1, 5, None, 11)])
    assert place.published_at() == second


def test_a_pointer_of_before_that_was_kept_is_taken_on(in_postgres: PostgresBackend) -> None:
    name = published(in_postgres, ONE, [(1, 5, None, 10)])
    with in_postgres.connected(BoundedConnection) as connection:
        connection.execute(f"ALTER TABLE {HOME}.pointer DROP COLUMN published_at")
    later = PostgresBackend(online())
    assert (later.current(), later.published_at()) == (name, None)
    published(later, ONE, [(1, 6, None, 10)])
    assert later.published_at() is not None


def test_a_draft_that_was_not_published_leaves_nothing(place: OnlineBackend) -> None:
    first = published(place, ONE, [(1, 5, None, 10)])
    with place.drafting("test") as draft:
        draft.load(ONE, [[(1, 6, None, 11)]])
        draft.finish(GenerationMetadata())
    assert place.current() == first
    assert values(place, ONE, [(1,)]) == [(5, 10)]
    assert traces(place, first)
    assert not traces(place, draft.name)


def test_the_former_generation_can_be_read_and_the_one_before_it_is_gone(place: OnlineBackend) -> None:
    """A reader that looked at the pointer just before a publication reads on; two publications later it looks anew, and
    never takes rows that were removed for absent ones.
    """
    published(place, ONE, [(1, 5, None, 10)])
    reader = place.session().reader()
    assert reader.rows(ONE, ("value",), [(1,)]) == [(5, 10)]
    published(place, ONE, [(1, 5, None, 20)])
    assert reader.rows(ONE, ("value",), [(1,)]) == [(5, 10)]
    published(place, ONE, [(1, 5, None, 30)])
    if isinstance(place, SqliteBackend):  # an open file is read to its end
        assert reader.rows(ONE, ("value",), [(1,)]) == [(5, 10)]
        return
    with pytest.raises(GenerationGoneError, match="was removed"):
        reader.rows(ONE, ("value",), [(1,)])


def test_a_reader_whose_generation_is_gone_looks_again(place: OnlineBackend) -> None:
    published(place, ONE, [(1, 5, None, 10)])
    store = PackedOnlineStore()
    stale = place.session().reader()
    stale.rows(ONE, ("value",), [(1,)])
    for value in (20, 30):
        published(place, ONE, [(1, 5, None, value)])
    readers = iter([stale])
    found = store._retry_once(lambda: (next(readers, None) or store._newest_reader()).rows(ONE, ("value",), [(1,)]))
    assert found == [(5, 10 if isinstance(place, SqliteBackend) else 30)]


def test_two_loaders_take_turns(place: OnlineBackend) -> None:
    inside, most = 0, 0

    def load(value: int) -> None:
        nonlocal inside, most
        with backends.configured().drafting("test") as draft:
            inside += 1
            most = max(most, inside)
            draft.load(ONE, [[(key, value, None, value) for key in range(500)]])
            draft.finish(GenerationMetadata())
            inside -= 1
            draft.publish()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(load, range(1, 5)))
    assert most == 1
    found = values(place, ONE, [(key,) for key in range(500)])
    assert len({*found}) == 1
    assert found[0] is not None


def test_readers_see_a_generation_whole_while_others_come(place: OnlineBackend) -> None:
    """Rows of a generation are alike; whoever saw two kinds in one answer saw half of a publication."""
    published(place, ONE, [(key, 1, None, 0) for key in range(200)])
    answers, stop, store = [], threading.Event(), PackedOnlineStore()
    began = threading.Event()

    def read() -> None:
        last = False
        while not last:
            last = stop.is_set()
            try:
                answers.append(
                    {
                        *store._retry_once(
                            lambda: store._newest_reader().rows(ONE, ("value",), [(key,) for key in range(0, 200, 20)])
                        )
                    }
                )
            except Exception as error:
                answers.append({error})
            began.set()

    reading = threading.Thread(target=read)
    reading.start()
    try:
        assert began.wait(60)
        for value in range(1, 8):
            published(place, ONE, [(key, 1, None, value) for key in range(200)])
    finally:
        stop.set()
        reading.join()
    assert {(1, 0), (1, 7)} <= set.union(*answers) <= {(1, value) for value in range(8)}
    assert {len(answer) for answer in answers} == {1}


@pytest.mark.parametrize("key", [True, 1.0, 1.5, "1", b"1", 2**63, -(2**63) - 1])
def test_a_key_of_another_type_is_an_error_and_no_absent_value(place: OnlineBackend, key: Any) -> None:
    """One database takes them for 1, and another one does not find them."""
    published(place, row_schema_of(THINGS), [(1, 5, None, 10)])
    query = Query(place.session().reader(), THINGS, ("value",))
    with pytest.raises(UnsupportedTypeError, match="is no int64_val"):
        query.rows([(key,), (1,)])
    assert query.rows([(numpy.int64(1),), (numpy.int32(1),), (None,), (1,), (2,)]) == [
        (5, 10),
        (5, 10),
        None,
        (5, 10),
        None,
    ]


RETYPED = [
    (Int64, Float64, 3, 3.0),
    (Int32, Int64, 3, 3),
    (UnixTimestamp, Int64, 3, 3),
    (Float32, Float64, 0.5, 0.5),
    (Int64, Float64, None, None),
]
UNFIT = [(Float64, Int64, 3.5), (Int64, String, 3), (String, Int64, "3"), (String, Float64, "x")]


@pytest.mark.parametrize(("was", "now", "value", "served"), RETYPED)
def test_a_value_whose_type_was_changed_is_served_in_the_new_one(
    place: OnlineBackend, was: Any, now: Any, value: Any, served: Any
) -> None:
    published(place, RowSchema("one", ONE.keys, {"value": TYPE_MAPPINGS[was]}), [(1, 5, None, value)])
    [row] = values(place, RowSchema("one", ONE.keys, {"value": TYPE_MAPPINGS[now]}), [(1,)])
    assert alike(row) == alike((5, served))


@pytest.mark.parametrize(("was", "now", "value"), UNFIT)
def test_a_value_that_does_not_fit_its_new_type_is_an_error(
    place: OnlineBackend, was: Any, now: Any, value: Any
) -> None:
    published(place, RowSchema("one", ONE.keys, {"value": TYPE_MAPPINGS[was]}), [(1, 5, None, value)])
    with pytest.raises(UnsupportedTypeError, match="materialize it again"):
        values(place, RowSchema("one", ONE.keys, {"value": TYPE_MAPPINGS[now]}), [(1,)])


def test_a_pushed_value_is_not_rounded_to_the_type_that_its_column_has(place: OnlineBackend) -> None:
    published(place, ONE, [])
    real = RowSchema("one", ONE.keys, {"value": TYPE_MAPPINGS[Float64]})
    if isinstance(place, PostgresBackend):
        with pytest.raises(OnlineStoreUnfitError, match="value of one is online in another type"):
            place.merge(real, [(1, 5, None, 3.5)])
    else:
        place.merge(real, [(1, 5, None, 3.5)])
        assert values(place, real, [(1,)]) == [(5, 3.5)]


def test_half_a_push_that_was_killed_is_taken_back_by_who_reads_next(
    lake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file as it is on the disk in the middle of a transaction, with the journal beside it, when nobody holds a
    lock.
    """
    place = backends.configured()
    name = published(place, ONE, [(key, 5, None, key) for key in range(20_000)])
    path = sqlite.path_of(name)
    with closing(sqlite3.connect(path, isolation_level=None)) as pushing:
        pushing.executescript("PRAGMA cache_size=5; BEGIN IMMEDIATE; UPDATE one SET value = -1")
        half = {file: file.read_bytes() for file in path.parent.glob(f"{name}*")}
    assert len(half) == 2
    for file, content in half.items():
        file.write_bytes(content)
    assert values(place, ONE, [(key,) for key in range(0, 20_000, 100)]) == [(5, key) for key in range(0, 20_000, 100)]
