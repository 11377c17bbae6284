"""Declarations of every kind on Spark: the rows that the oracle of `tests/integration/test_aggregations_property.py`
says, at every midnight and in every run.
"""

from functools import reduce

import pytest
from pyspark.sql import DataFrame

from tests.integration import test_aggregations_property as declarations

CASES = {
    name: getattr(declarations, name)
    for name in ("LONG_AGO", "TIES", "NOBODY", "SEVERAL", "LOOKING_BACK", "RETURNS", "CHANGING", "LARGE")
}


@pytest.mark.parametrize("name", CASES)
def test_a_declaration_is_right_on_both_engines(engine: str, name: str) -> None:
    case = CASES[name]
    whole = declarations.by_key(case, declarations.features(case, [declarations.whole(case)]))
    declarations.assert_right(case, whole)
    parts = [declarations.features(case, run, declarations.read_for(case, run)) for run in declarations.runs(case)]
    assert declarations.by_key(case, reduce(DataFrame.unionAll, parts)) == whole
