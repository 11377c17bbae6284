"""Generations: what is online. One generation holds every view as of one materialization, and a pointer says which one
is read.

A generation is filled beside the one in use and becomes visible, for all views at once, when the pointer moves. Readers
look at the pointer at each request. A process that is killed leaves the former generation in use. The current
generation and the one before it are kept, so that a reader that has just looked still finds what it looks for.

Where generations live is a `OnlineBackend`: sqlite files below `MILLRACE_HOME`, or the Redis or PostgreSQL that
`MILLRACE_ONLINE` names. Rows are packed: one for each entity and view.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from features.type_mapping import Kind

EVENT, CREATED = "_event_at", "_created_at"
"""Microseconds since 1970, UTC."""

Key = tuple[Any, ...]
Stored = Sequence[Any]
"""A row as it is stored: join keys, event time, creation time or None, features, all as plain values in the order of
the layout.
"""
Found = tuple[Any, ...]
"""A row as it is read: event time, then the features asked for; None where it has none."""


class OnlineStoreError(Exception):
    """Features cannot be served, or not be put online."""


class OnlineStoreEmptyError(OnlineStoreError, LookupError):
    """Nothing was materialized yet."""


class OnlineStoreDamagedError(OnlineStoreError):
    """The pointer, or the generation that it names, is torn, overwritten or incomplete; the next materialization
    replaces it.
    """


class OnlineStoreUnreachableError(OnlineStoreError, ConnectionError):
    """The server that holds the features does not answer, or not in time."""


class OnlineStoreUnfitError(OnlineStoreError, ValueError):
    """`MILLRACE_ONLINE` names something that cannot hold features, or the server is set up so that it would lose
    some.
    """


class GenerationGoneError(OnlineStoreError, LookupError):
    """A generation was replaced twice while it was read: look at the pointer again."""


@dataclass(frozen=True)
class GenerationMetadata:
    """What a generation was made from; all None for one that only ever received pushed rows. `ids` tell the tables from
    others of the same name, of another lake or built anew. `pushed`: rows were merged into it since.
    """

    release: int | None = None
    horizon: str | None = None
    definitions: str | None = None
    tables: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    pushed: bool = False

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps(vars(self))


@dataclass(frozen=True)
class RowSchema:
    """How a view's rows are stored: the join keys find them; both times and each feature in its own type follow."""

    view: str
    keys: dict[str, Kind]
    features: dict[str, Kind]


class Reader(Protocol):
    """One generation, for one thread."""

    name: str

    def begin(self) -> None:
        """A request begins: read as of one moment from here on, where the place can."""

    def end(self) -> None:
        """It ends."""

    def rows(self, layout: RowSchema, features: Sequence[str], keys: Sequence[Key]) -> list[Found | None]:
        """The row of each key, None where there is none. GenerationGoneError rather than an answer in which rows were
        being removed.
        """

    def keys(self, layout: RowSchema, some: int | None) -> list[Key]:
        """Keys that have a row: all, or `some` at random."""


class Session(Protocol):
    """A thread's way to what is in use; it holds a connection."""

    def reader(self) -> Reader:
        """Of the generation in use at this moment, and the same one as before while nothing was published."""


class Draft(Protocol):
    """A generation that nobody reads yet."""

    name: str

    def load(self, layout: RowSchema, batches: Iterable[Sequence[Stored]]) -> int:
        """Fill a view, which becomes these rows and no others; their number."""

    def copy_from(self, name: str) -> None:
        """Begin with the rows of another generation, before anything else."""

    def apply_changes(self, layout: RowSchema, keys: Sequence[Key], batches: Iterable[Sequence[Stored]]) -> int:
        """Instead of `load`, in a draft that resembles another generation: its rows of the view without those of these
        keys, and more. The number of rows that the view has then.
        """

    def finish(self, about: GenerationMetadata) -> None:
        """Have it complete and durable, still unread."""

    def publish(self) -> None:
        """Make it the generation that everybody reads."""


class OnlineBackend(Protocol):
    """Where generations live."""

    @property
    def where(self) -> str:
        """For messages; without a password."""

    def current(self) -> str | None:
        """The id of the generation in use; None when there is none."""

    def about(self) -> GenerationMetadata | None:
        """What the generation in use was made from. OnlineStoreDamagedError when it cannot be read."""

    def published_at(self) -> datetime | None:
        """When the pointer moved to the generation in use; None when there is none, or it was published before this was
        kept.
        """

    def session(self) -> Session:
        """For one thread."""

    def open(self, name: str) -> Reader:
        """A generation, in use or not."""

    def drafting(self, label: str) -> AbstractContextManager[Draft]:
        """An empty draft, which is removed unless the block publishes it. One at a time; waits for its turn."""

    def merge(self, layout: RowSchema, rows: Sequence[Stored]) -> None:
        """Put rows into the generation in use, all or none, unless what is there is newer: an older event never
        replaces a newer one, and of the same event the row created or written later counts. Without a generation an
        empty one is made first.
        """

    def drop(self, views: Sequence[str]) -> None:
        """Remove views from the generation in use, if there is one."""

    def remove_all(self) -> None:
        """Take everything offline."""


@dataclass(frozen=True)
class InUse:
    """A generation that is served, and what it was made from."""

    name: str
    about: GenerationMetadata


def in_use(where: OnlineBackend) -> InUse | None:
    """What a place serves; None when nothing is online."""
    name, served = where.current(), where.about()
    return None if name is None or served is None else InUse(name, served)


def empty(where: str) -> OnlineStoreEmptyError:
    """The error of a reader who finds nothing."""
    return OnlineStoreEmptyError(
        f"no features are online in {where}. Run the DAG `millrace` (or `make demo`), or"
        " features.online.materialize.materialize(release)"
    )


def damaged(problem: str) -> OnlineStoreDamagedError:
    """The error of what is online and cannot be read. It reaches HTTP clients: `problem` holds no path of this
    machine.
    """
    return OnlineStoreDamagedError(
        f"{problem}. Nothing is served from it. To put a fresh generation online: millrace serve"
    )


def parsed(text: str | bytes | None, name: str, where: str) -> GenerationMetadata:
    """What a generation says that it was made from; OnlineStoreDamagedError where it says nothing, or nothing that can
    be read.
    """
    if text is None:
        raise damaged(f"the generation {name} in {where} is missing or torn: it does not say what it was made from")
    try:
        about = GenerationMetadata(**json.loads(text))
        return replace(about, rows={**about.rows})
    except (ValueError, TypeError) as error:
        raise damaged(f"the generation {name} in {where} is torn: what it says of itself cannot be read") from error


def ensure_views(name: str, where: str, lacking: Iterable[str]) -> None:
    """OnlineStoreDamagedError where a generation lacks the rows of these views."""
    if names := ", ".join(sorted(lacking)):
        raise damaged(f"the generation {name} in {where} is torn: it lacks {names}")


def new_name(label: str) -> str:
    """An id that no other generation has."""
    return f"{label}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}"


@dataclass(frozen=True)
class Preview:
    """A generation to read, in use or not, and the instant to take for now."""

    name: str
    at: datetime


previewed: ContextVar[Preview | None] = ContextVar("previewed", default=None)


def now() -> datetime:
    """The instant as of which features are served."""
    preview = previewed.get()
    return preview.at if preview else datetime.now(UTC)


@contextmanager
def previewing(name: str, at: datetime) -> Iterator[None]:
    """Read this generation as of that instant, here and nowhere else."""
    token = previewed.set(Preview(name, at))
    try:
        yield
    finally:
        previewed.reset(token)
