"""The contestants of the join's benchmark answer the same question, and what they answer is what a search of every row
finds.
"""

from pathlib import Path

import pandas as pd
import pytest

from bench import as_of


@pytest.mark.parametrize("contestant", ["bare DuckDB ASOF", "ours, duckdb", "ours, pandas"])
def test_a_contestant_finds_what_a_search_finds(
    contestant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    monkeypatch.setattr(as_of, "KEYS", 20)
    as_of.land(tmp_path / "case", 300, 60)
    as_of.land(tmp_path / "case" / "small", 30, 6)
    rows, labels = (pd.read_parquet(tmp_path / "case" / f"{name}.parquet") for name in ("rows", "labels"))
    result = []
    for label in labels.itertuples():
        known = rows[(rows.k == label.k) & (rows.event_timestamp <= label.event_timestamp)]
        if len(known):
            result.append(int(known.sort_values("event_timestamp").v.iloc[-1]))
    answer = as_of.timed(contestant, tmp_path / "case")
    assert (answer["rows"], answer["sum"]) == (len(result), sum(result))
    assert len(result) > 30
