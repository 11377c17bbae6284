"""A stand-in of cuDF: the methods and arguments that our frames use and cuDF 26.4 has, and no others, around pandas.

What is not here must not be used without a look at cuDF. Rows that a sort may leave in any order come in another order
than before, as in cuDF.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa


class Series:
    def __init__(self, kept: pd.Series) -> None:
        self._held = kept

    def _with(self, other: Any) -> Any:
        return other._held if isinstance(other, Series) else other

    def __eq__(self, other: Any) -> Series:  # type: ignore[override]
        return Series(self._held == self._with(other))

    def __ge__(self, other: Any) -> Series:
        return Series(self._held >= self._with(other))

    def __lt__(self, other: Any) -> Series:
        return Series(self._held < self._with(other))

    def __and__(self, other: Any) -> Series:
        return Series(self._held & self._with(other))

    def __sub__(self, other: Any) -> Series:
        return Series(self._held - self._with(other))

    def where(self, cond: Series, other: int) -> Series:
        return Series(self._held.where(cond._held, other))

    def cummax(self) -> Series:
        return Series(self._held.cummax())

    def to_arrow(self) -> pa.Array:
        return pa.array(self._held)


class DataFrame:
    def __init__(self, kept: pd.DataFrame) -> None:
        self._held = kept

    @classmethod
    def from_arrow(cls, table: pa.Table) -> DataFrame:
        assert all(
            pa.types.is_integer(type_) or type_ in (pa.string(), pa.float64(), pa.float32(), pa.bool_())
            for type_ in table.schema.types
        ), table.schema
        assert not any(column.null_count for column in table.columns)
        return cls(table.to_pandas(types_mapper={pa.string(): pd.ArrowDtype(pa.string())}.get))

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, expected: str | list[str] | Series) -> Any:
        if isinstance(expected, str):
            return Series(self._held[expected])
        return DataFrame(self._held[expected._held if isinstance(expected, Series) else expected])

    def __setitem__(self, name: str, values: Series | np.ndarray) -> None:
        self._held[name] = values._held if isinstance(values, Series) else values

    def sort_values(self, by: list[str], ignore_index: bool = False) -> DataFrame:
        return DataFrame(self._held.iloc[::-1].sort_values(by, ignore_index=ignore_index))

    def take(self, indices: Series) -> DataFrame:
        return DataFrame(self._held.take(indices._held))

    def reset_index(self, drop: bool) -> DataFrame:
        return DataFrame(self._held.reset_index(drop=drop))

    def rename(self, columns: dict[str, str]) -> DataFrame:
        return DataFrame(self._held.rename(columns=columns))

    def groupby(self, by: list[str], sort: bool, as_index: bool) -> Groups:
        assert not sort
        assert not as_index
        return Groups(self._held, by)


class Groups:
    def __init__(self, kept: pd.DataFrame, by: list[str]) -> None:
        self._held, self._by = kept, by

    def size(self) -> DataFrame:
        return DataFrame(
            self._held.groupby(self._by, as_index=False, sort=False).size().astype({"size": np.int32}).iloc[::-1]
        )
