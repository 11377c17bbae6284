"""Generations: a generation holds every view as of one materialization, and a pointer names the one that is served.

A generation is filled beside the one in use and becomes visible, for all views at once, when the pointer moves. Readers
check the pointer at each request. A killed process leaves the previous generation in use. The current and the previous
generation are kept, so a reader that has just read the pointer still finds its rows.

An `OnlineBackend` stores generations: sqlite files below `MILLRACE_HOME`, or the Redis or PostgreSQL that
`MILLRACE_ONLINE` names. Rows are packed, one per entity and view.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from features.type_mapping import TypeMapping

if TYPE_CHECKING:
    from features.streaming.tail_store import TailRows, TailStore

EVENT, CREATED = "_event_at", "_created_at"
"""Microseconds since 1970, UTC."""

Key = tuple[Any, ...]
StoredRow = Sequence[Any]
"""A row as it is stored: join keys, event time, creation time or None, features; plain values in the order of the
RowSchema.
"""
ReadRow = tuple[Any, ...]
"""A row as it is read: event time, then the requested features; None for a missing value."""


class OnlineStoreError(Exception):
    """Features cannot be served or put online."""


class OnlineStoreEmptyError(OnlineStoreError, LookupError):
    """Nothing was materialized yet."""


class OnlineStoreDamagedError(OnlineStoreError):
    """The pointer or its generation is torn, overwritten or incomplete; the next materialization replaces it."""


class OnlineStoreUnreachableError(OnlineStoreError, ConnectionError):
    """The server that holds the features does not answer, or not in time."""


class OnlineStoreUnfitError(OnlineStoreError, ValueError):
    """`MILLRACE_ONLINE` names something that cannot hold features, or a server whose settings would lose some."""


class OnlineStoreOwnedError(OnlineStoreError):
    """The online store serves another project's features."""


class GenerationGoneError(OnlineStoreError, LookupError):
    """A generation was replaced twice while it was read: read the pointer again."""


@dataclass(frozen=True)
class GenerationMetadata:
    """What a generation was made from; None and empty for one that holds only pushed rows.

    `project` is the project that materialized it, None where an older version did.
    `streams` says of each view with a tail which messages its rows include: the identity of the topic, and the offset
    of the first message of each partition that they do not.
    `ids` are the tables' Delta ids, which distinguish them from tables of the same name in another lake, or rebuilt
    ones. `pushed`: rows were merged into it since.
    """

    release: int | None = None
    horizon: str | None = None
    definitions: str | None = None
    tables: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    pushed: bool = False
    project: str | None = None
    streams: dict[str, Cut] = field(default_factory=dict)

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps(vars(self))


Cut = dict[str, Any]
"""`identity` of the topic, and `offsets` by partition, whose numbers are text as in JSON."""
METADATA_FIELDS = frozenset(GenerationMetadata.__dataclass_fields__)
"""A later version may have written more."""


@dataclass(frozen=True)
class RowSchema:
    """How a view's rows are stored: join keys, then event and creation time, then each feature in its own type."""

    view: str
    keys: dict[str, TypeMapping]
    features: dict[str, TypeMapping]


class Reader(Protocol):
    """One generation, for one thread."""

    name: str

    def begin(self) -> None:
        """Begin a request: reads from here on see one snapshot, where the backend can provide it."""

    def end(self) -> None:
        """End the request."""

    def rows(self, row_schema: RowSchema, features: Sequence[str], keys: Sequence[Key]) -> list[ReadRow | None]:
        """The row of each key, None where there is none; GenerationGoneError when rows may have been removed
        meanwhile.
        """

    def keys(self, row_schema: RowSchema, limit: int | None) -> list[Key]:
        """All keys that have a row, or `limit` random ones."""

    def metadata(self) -> GenerationMetadata:
        """What the generation was made from."""

    def tail_rows(self, tail: str, keys: Sequence[bytes]) -> TailRows | None:
        """The entries of these entities in a tail; None where no worker has begun it."""


class Session(Protocol):
    """One thread's access to the generation in use; holds a connection."""

    def reader(self) -> Reader:
        """A reader of the generation in use; the same one as before unless another generation was published."""


class Draft(Protocol):
    """A generation that nobody reads yet."""

    name: str

    def load(self, row_schema: RowSchema, batches: Iterable[Sequence[StoredRow]]) -> int:
        """Fill a view with exactly these rows; returns their number."""

    def copy_from(self, name: str) -> None:
        """Start from the rows of another generation; called before any other method."""

    def apply_changes(self, row_schema: RowSchema, keys: Sequence[Key], batches: Iterable[Sequence[StoredRow]]) -> int:
        """Instead of `load`, in a draft copied from another generation: remove the view's rows of these keys and add
        the batches. Returns the number of rows that the view has then.
        """

    def finish(self, metadata: GenerationMetadata) -> None:
        """Make the draft complete and durable; it is not read yet."""

    def publish(self) -> None:
        """Make it the generation in use."""


class OnlineBackend(Protocol):
    """Storage of generations."""

    @property
    def where(self) -> str:
        """For messages; without a password."""

    def current(self) -> str | None:
        """The id of the generation in use; None when there is none."""

    def metadata(self) -> GenerationMetadata | None:
        """Metadata of the generation in use, None when there is none; OnlineStoreDamagedError when it cannot be
        read.
        """

    def published_at(self) -> datetime | None:
        """When the pointer moved to the generation in use; None when there is none, or an older version published
        it.
        """

    def session(self) -> Session:
        """For one thread."""

    def open(self, name: str) -> Reader:
        """A generation, in use or not."""

    def drafting(self, label: str) -> AbstractContextManager[Draft]:
        """An empty draft, which is removed unless the block publishes it. Waits while another process has a draft."""

    def merge(self, row_schema: RowSchema, rows: Sequence[StoredRow]) -> None:
        """Merge rows into the generation in use, all or none; without a generation, into a new empty one.

        An older event never replaces a newer one; of the same event time, the row created or written later wins.
        """

    def drop(self, views: Sequence[str]) -> None:
        """Remove views from the generation in use, if there is one."""

    def remove_all(self) -> None:
        """Take everything offline."""

    def tails(self) -> TailStore:
        """Storage of the events that came since."""


@dataclass(frozen=True)
class InUse:
    """A generation that is served, and what it was made from."""

    name: str
    metadata: GenerationMetadata


def in_use(backend: OnlineBackend) -> InUse | None:
    """The generation that a backend serves; None when nothing is online."""
    name, metadata = backend.current(), backend.metadata()
    return None if name is None or metadata is None else InUse(name, metadata)


def ensure_own(backend: OnlineBackend, project: str) -> None:
    """Raise OnlineStoreOwnedError if another project serves from this backend: two would replace each other's
    features.
    """
    try:
        served = in_use(backend)
    except OnlineStoreDamagedError:  # it is about to be replaced
        return
    owner = served.metadata.project if served else None
    if owner not in (None, project):
        raise OnlineStoreOwnedError(
            f"{backend.where} serves the features of the project {owner}, and this is {project}. Nothing was changed."
            " Set MILLRACE_ONLINE to a database of this project's own, such as another number in redis://host:6379/1 or"
            " another database in PostgreSQL"
        )


def offsets(cut: Cut | None, identity: int) -> dict[int, int]:
    """The offset of the first message of each partition that a cut does not include. Of a topic that was created again
    it includes none.
    """
    if cut is None or cut["identity"] != identity:
        return {}
    return {int(partition): offset for partition, offset in cut["offsets"].items()}


def empty_error(where: str) -> OnlineStoreEmptyError:
    """The error for a reader when nothing is online."""
    return OnlineStoreEmptyError(
        f"no features are online in {where}. Run the DAG `millrace` (or `make demo`), or"
        " features.online.materialize.materialize(release)"
    )


def damaged_error(problem: str) -> OnlineStoreDamagedError:
    """The error for a generation that cannot be read. It reaches HTTP clients, so `problem` must not contain a path of
    this machine.
    """
    return OnlineStoreDamagedError(
        f"{problem}. Nothing is served from it. To put a fresh generation online: millrace serve"
    )


def parse_metadata(text: str | bytes | None, name: str, where: str) -> GenerationMetadata:
    """The metadata of a generation; OnlineStoreDamagedError where it is missing or cannot be read."""
    if text is None:
        raise damaged_error(
            f"the generation {name} in {where} is missing or torn: it does not say what it was made from"
        )
    try:
        known = {name: value for name, value in json.loads(text).items() if name in METADATA_FIELDS}
        metadata = GenerationMetadata(**known)
        return replace(metadata, rows={**metadata.rows})
    except (ValueError, TypeError, AttributeError) as error:
        raise damaged_error(
            f"the generation {name} in {where} is torn: what it says of itself cannot be read"
        ) from error


def ensure_views(name: str, where: str, lacking: Iterable[str]) -> None:
    """Raise OnlineStoreDamagedError if a generation lacks the rows of any views."""
    if names := ", ".join(sorted(lacking)):
        raise damaged_error(f"the generation {name} in {where} is torn: it lacks {names}")


def new_name(label: str) -> str:
    """A unique id for a generation."""
    return f"{label}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}"


@dataclass(frozen=True)
class Preview:
    """A generation to read, in use or not, and the instant that counts as now."""

    name: str
    at: datetime


previewed: ContextVar[Preview | None] = ContextVar("previewed", default=None)


def now() -> datetime:
    """The instant as of which features are served."""
    preview = previewed.get()
    return preview.at if preview else datetime.now(UTC)


@contextmanager
def previewing(name: str, at: datetime) -> Iterator[None]:
    """Read this generation as of that instant, in this context only."""
    token = previewed.set(Preview(name, at))
    try:
        yield
    finally:
        previewed.reset(token)
