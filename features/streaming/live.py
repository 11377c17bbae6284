"""The tail of a view as a request sees it: the events that the generation in use does not have."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import msgspec
from feast import FeatureView

from contracts import catalog
from contracts.model import Column
from features.instants.tail import NO_EVENTS, Recent, recent
from features.online import generation
from features.online.generation import Cut, Key, Reader, damaged_error, offsets
from features.streaming import tails
from features.streaming.tail_store import pack_key

_until: ContextVar[Mapping[str, Cut] | None] = ContextVar("until", default=None)


@contextmanager
def as_read_by(streams: Mapping[str, Cut]) -> Iterator[None]:
    """Within it, requests see only the messages that these cuts include, by view: those that a release has as well."""
    token = _until.set(streams)
    try:
        yield
    finally:
        _until.reset(token)


@dataclass(frozen=True)
class LiveTail:
    """A tail, read beside one generation, whose rows include the messages of the cut."""

    reader: Reader
    view: str
    name: str
    cut: Cut

    @classmethod
    def of(cls, reader: Reader, view: FeatureView) -> LiveTail | None:
        """The tail of a view; None if the view has none, the generation was loaded by a version without tails, or it is
        previewed, as in a comparison with its release.
        """
        tail = tails.of(catalog.table(view.batch_source.table))
        if tail is None or generation.previewed.get():
            return None
        cut = reader.metadata().streams.get(view.name)
        if cut is None:
            return None
        return cls(reader, view.name, tail.name, cut)

    def events(self, keys: Sequence[Key], columns: Sequence[Column], needed: Collection[int]) -> list[Recent]:
        """The events of each entity that came since the generation was made, with the cells of the needed columns."""
        rows = self.reader.tail_rows(self.name, [pack_key(key) for key in keys])
        if rows is None:
            return [NO_EVENTS] * len(keys)
        since = _offsets(self.cut, rows.identities)
        streams = _until.get()
        until = None if streams is None else _offsets(streams.get(self.view), rows.identities)
        try:
            return [
                recent(entries, since, until, columns, needed) if entries else NO_EVENTS for entries in rows.entries
            ]
        except (msgspec.MsgspecError, ValueError, IndexError) as error:
            raise damaged_error(f"the tail of {self.view} is torn: {error}") from error


def _offsets(cut: Cut | None, identities: Mapping[int, int]) -> dict[int, int]:
    """The offsets of a cut in the partitions in which the tail has read the cut's own topic."""
    if cut is None:
        return {}
    own = offsets(cut, cut["identity"])
    return {partition: offset for partition, offset in own.items() if identities.get(partition) == cut["identity"]}
