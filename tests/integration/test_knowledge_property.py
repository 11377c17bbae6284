"""Joins by knowledge time and the leak check, on any past: against a search in plain Python over what each release
holds.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import training
from lake import manifest
from tests.unit.features.conftest import Lake
from tests.unit.features.conftest import lake as lake
from tests.unit.features.training.test_knowledge import SERVICE, Past, age, day, expected, labels, publish, spend

rows = st.lists(
    st.tuples(st.sampled_from([1, 2]), st.integers(0, 6), st.integers(0, 3)), max_size=8, unique_by=lambda row: row[:2]
).map(tuple)
ages = st.none() | st.dictionaries(st.sampled_from([1, 2]), st.sampled_from(["19-24", "65+"]))
pasts = st.lists(st.builds(Past, st.integers(0, 6), rows, ages), max_size=3).flatmap(
    lambda before: st.builds(lambda last, found: [*before, Past(last, found, {1: "25-34"})], st.integers(0, 6), rows)
)
asked = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3]),
        st.builds(
            lambda number, more: day(number) + timedelta(microseconds=more),
            st.integers(-1, 8),
            st.sampled_from([-1, 0, 1]),
        ),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pasts=pasts, asked=asked)
def test_equals_brute_force(lake: Lake, pasts: list[Past], asked: list[tuple[int, datetime]]) -> None:
    publish(lake, pasts)
    for name in manifest.names():
        (manifest.folder() / f"{name}.json").unlink()
    training.create(labels(asked), SERVICE, "then", knowledge_time=True)
    data = training.read("then")
    found = {check.feature: check for check in training.check_labels(labels(asked), SERVICE).features}
    for feature, say in (("paid_7d", spend), ("age_band", age)):
        values, counts = expected(pasts, asked, say)
        assert data[feature].to_pylist() == values
        assert {name: getattr(found[feature], name) for name in counts} == counts
    assert data.select(["guest_id", "event_timestamp"]) == labels(asked)
    assert not training.check_leaks("then").found
    assert training.rebuild("then").same_file
