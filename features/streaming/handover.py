"""Hand tails over to a release: it includes the messages that bronze had read when its silver tables were built.

A tail keeps what neither the generation in use nor the former one includes, so that both can be read while the pointer
moves. A release that includes less than the tail has kept, as after a rollback, makes workers read its messages again.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from features.online.generation import Cut, GenerationMetadata, OnlineBackend, offsets
from features.streaming import tails
from features.streaming.tail_store import EARLIEST, Advance, FencedError, Position
from features.streaming.tails import Tail
from lake import delta
from lake.release import Release
from lake.topics import ReadOffsets, read_offsets

ATTEMPTS = 20
log = logging.getLogger(__name__)


def cuts(release: Release) -> dict[str, Cut]:
    """What the release's tables include of the topics, by view."""
    return {
        tail.view: {"identity": read.identity, "offsets": {str(p): offset for p, offset in read.partitions.items()}}
        for tail in tails.all_tails()
        for read in [_included(release, tail)]
    }


def _included(release: Release, tail: Tail) -> ReadOffsets:
    """The messages that were in bronze when the silver table was built from which the gold table was. Nothing where the
    log no longer says so: events that come twice count once.
    """
    silver = _input_version(tail.gold.qualified, release.tables.get(tail.gold.qualified), tail.silver.qualified)
    bronze = _input_version(tail.silver.qualified, silver, tail.bronze.qualified)
    with suppress(delta.LakeError):
        table = delta.open_table(tail.bronze.qualified, bronze) if bronze is not None else None
        if table is not None:
            return read_offsets(table, tail.topic)
    return ReadOffsets(0, {})


def _input_version(qualified: str, version: int | None, name: str) -> int | None:
    """The version of an input that a version of a table was built from; None where the log no longer says so, or the
    input was removed and rebuilt since.
    """
    commit = delta.commit_of(qualified, version) if version is not None else None
    if commit is None or commit.ids.get(name) != delta.id_of(name):
        return None
    return commit.inputs.get(name)


def prepare(backend: OnlineBackend, metadata: GenerationMetadata) -> None:
    """Before a generation is published: let workers read again what a tail no longer has and the generation does not
    include.
    """
    for tail in tails.all_tails():
        for _ in range(ATTEMPTS):
            with suppress(FencedError):
                _reset(backend, tail, metadata.streams.get(tail.view))
                break


def _reset(backend: OnlineBackend, tail: Tail, cut: Cut | None) -> None:
    steps = []
    for partition, position in backend.tails().positions(tail.name).items():
        start = offsets(cut, position.identity).get(partition, EARLIEST)
        if position.complete_from > max(start, 0):
            reached = Position(position.identity, start, start)
            steps.append(Advance(tail.name, partition, position, reached, clears=True))
            log.warning(
                "%s: messages of partition %d of %s are read again from offset %d, where the release ends",
                tail.view,
                partition,
                tail.topic,
                max(start, 0),
            )
    if steps:
        backend.tails().advance(steps)


def trim(backend: OnlineBackend, served: GenerationMetadata, former: GenerationMetadata | None) -> None:
    """After a generation was published: drop the events that both it and the former one include, and tails that no view
    has any more.
    """
    known = tails.all_tails()
    for tail in known:
        positions = backend.tails().positions(tail.name)
        for identity in {position.identity for position in positions.values()}:
            included = [
                offsets(metadata.streams.get(tail.view), identity) if metadata else {} for metadata in (served, former)
            ]
            ended = {partition: min(cut.get(partition, 0) for cut in included) for partition in positions}
            passed = {n: offset for n, offset in ended.items() if offset > positions[n].complete_from}
            if passed:
                backend.tails().trim(tail.name, identity, passed)
    backend.tails().remove([tail.name for tail in known])
