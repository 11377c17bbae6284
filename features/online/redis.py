"""Generations in a Redis: each view is some hundreds of hashes (buckets), in which a packed key finds a packed row; one
hash is the pointer, and a script moves it.

A row is two big-endian integers (event time, creation time) and then its features in MessagePack, in the order that the
view's description says, so that a script on the server can tell which of two rows is newer. Buckets are copied and
removed one by one, so that no other client of the server waits for longer than a bucket takes. One loader at a time
holds a lease, renewed while it works; the pointer moves only for who holds it.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any
from zlib import crc32

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import LockError
from redis.lock import Lock
from redis.retry import Retry

from features.online.generation import (
    Found,
    GenerationGoneError,
    GenerationMetadata,
    Key,
    OnlineStoreDamagedError,
    OnlineStoreUnfitError,
    RowSchema,
    Stored,
    empty,
    ensure_views,
    new_name,
    parsed,
)
from features.online.server import ANSWER_SECONDS, CONNECT_SECONDS, Explained, Words, masked, reaching
from features.type_mapping import retyped_row
from lake import tls

POINTER = "millrace:online"
GENERATIONS = "millrace:generations"
"""Generation -> what it was made from; it is entered before its first row is written, so that what a killed loader left
is found.
"""
LOCK = "millrace:loading"
LEASE_SECONDS = 30.0
ROWS_OF_BUCKET, MANY = 256, 4_096
"""A large view has many buckets, of which a million rows fill each with a few hundred."""
PIPELINED = 2_000
"""Commands sent at once."""
NEVER = -(2**63)
HEAD = struct.Struct(">qq")
DOWN = (redis.RedisError,)
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
OPTIONS = f"A server behind TLS is rediss://user:password@host:port/database, and its options are {', '.join(FILES)}"
WORDS = Words(
    "ssl_ca_certs",
    "ssl_certfile and ssl_keyfile",
    "Begin MILLRACE_ONLINE with redis://",
    "Begin MILLRACE_ONLINE with rediss://",
)
CUT = re.compile(r"reset by peer|closed by server|violation of protocol|Broken pipe")
EVICTING = "allkeys"
DATABASE = re.compile(r"unix://.*|rediss?://[^/]*(/\d*)?")
LEASE_RAN_OUT = "the lease ran out while the generation was loaded, and somebody else may be loading now; run again"

_packed, _unpacked = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode

NEWER = """
local function newer(row, old)
  local h1, l1 = struct.unpack('>i4I4', row, 1)
  local h2, l2 = struct.unpack('>i4I4', old, 1)
  if h1 ~= h2 then return h1 > h2 end
  if l1 ~= l2 then return l1 > l2 end
  local never = string.char(128, 0, 0, 0, 0, 0, 0, 0)
  if string.sub(row, 9, 16) == never or string.sub(old, 9, 16) == never then return true end
  h1, l1 = struct.unpack('>i4I4', row, 9)
  h2, l2 = struct.unpack('>i4I4', old, 9)
  if h1 ~= h2 then return h1 > h2 end
  return l1 >= l2
end
"""
MERGE = (
    NEWER
    + """
if redis.call('HGET', KEYS[1], 'current') ~= ARGV[1] then return 0 end
if (redis.call('HGET', KEYS[2], ARGV[2]) or '') ~= ARGV[3] then return 0 end
redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[5])
for at = 6, #ARGV, 3 do
  local bucket, key, row = KEYS[tonumber(ARGV[at])], ARGV[at + 1], ARGV[at + 2]
  local old = redis.call('HGET', bucket, key)
  if not old or newer(row, old) then redis.call('HSET', bucket, key, row) end
end
return 1
"""
)
PUBLISH = """
if redis.call('GET', KEYS[2]) ~= ARGV[2] then return 0 end
local former = redis.call('HGET', KEYS[1], 'current')
if former == ARGV[1] then return 1 end
if former then redis.call('HSET', KEYS[1], 'former', former) end
redis.call('HSET', KEYS[1], 'current', ARGV[1], 'published_at', redis.call('TIME')[1])
return 1
"""
START = """
if redis.call('HSETNX', KEYS[1], 'current', ARGV[1]) == 1 then
  redis.call('HSET', KEYS[1], 'published_at', redis.call('TIME')[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
end
return redis.call('HGET', KEYS[1], 'current')
"""
UNNAMED = """
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return {} end
local named, unnamed = {}, {}
for _, name in ipairs(redis.call('HVALS', KEYS[1])) do named[name] = true end
for _, name in ipairs(redis.call('HKEYS', KEYS[2])) do
  if not named[name] then unnamed[#unnamed + 1] = name end
end
return unnamed
"""


@dataclass(frozen=True)
class StoredSchema:
    """How a view is stored in a generation: its features in the order of a row, what each is in Feast's `Value`, and
    the number of its buckets.

    `filled` of the buckets held rows when the generation was complete; fewer of them tell that some were lost. 0 where
    that was not kept.
    """

    features: tuple[str, ...]
    protos: tuple[str, ...]
    buckets: int
    filled: int = 0

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps(vars(self))

    @classmethod
    def of(cls, stored: bytes) -> StoredSchema:
        """As it was stored."""
        plain = json.loads(stored)
        return cls(tuple(plain["features"]), tuple(plain["protos"]), plain["buckets"], plain.get("filled", 0))

    @classmethod
    def by(cls, layout: RowSchema, buckets: int) -> StoredSchema:
        """Just as the layout has it."""
        return cls(tuple(layout.features), tuple(kind.proto for kind in layout.features.values()), buckets)


class RedisBackend:
    """One database of a Redis server."""

    def __init__(self, url: str) -> None:
        self.where = masked(url)
        # once more after a connection broke, as it does when the server was started anew; a server that is silent has
        # had its time
        options: dict[str, Any] = {
            "socket_timeout": ANSWER_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 1, (redis.ConnectionError,)),
        }
        try:
            if not DATABASE.fullmatch(self.where):  # which the client would take for number 0
                raise ValueError("the database is not a number")
            self.client = redis.Redis.from_url(url, **options)
        except ValueError as error:
            raise OnlineStoreUnfitError(
                f"MILLRACE_ONLINE ({self.where}): {error}. Use redis://user:password@host:port/database"
            ) from error
        self._ensure_options()
        self.merge_script, self.publish_script = (
            self.client.register_script(MERGE),
            self.client.register_script(PUBLISH),
        )
        self._start_script, self._unnamed_script = (
            self.client.register_script(START),
            self.client.register_script(UNNAMED),
        )

    def current(self) -> str | None:
        """One command."""
        with self.reaching():
            name: Any = self.client.hget(POINTER, "current")
            return name.decode() if name else None

    def about(self) -> GenerationMetadata | None:
        """From the list of generations."""
        while (name := self.current()) is not None:
            try:
                return self.ensure_whole(name)
            except GenerationGoneError:
                continue
        return None

    def published_at(self) -> datetime | None:
        """By the server's clock, kept beside the pointer."""
        with self.reaching():
            seconds: Any = self.client.hget(POINTER, "published_at")
        return datetime.fromtimestamp(int(seconds), UTC) if seconds else None

    def session(self) -> RedisSession:
        """One command a request asks for the pointer."""
        return RedisSession(self)

    def open(self, name: str) -> RedisReader:
        """Through the pool of connections that all threads share."""
        return RedisReader(self, name, pinned=True)

    @contextmanager
    def drafting(self, label: str) -> Iterator[RedisDraft]:
        """One at a time in a database."""
        with self.reaching(), self._leased() as lease:
            self.clean(lease)
            draft = RedisDraft(self, label, lease)
            try:
                yield draft
            finally:
                draft.discard()
                self.clean(lease)

    def merge(self, layout: RowSchema, rows: Sequence[Stored]) -> None:
        """In one script. It does nothing when a publication, or a push of other features, came in between; then the
        rows are packed anew.
        """
        with self.reaching():
            while True:
                with suppress(GenerationGoneError):
                    if self._merged(self.current() or self._start_empty(), layout, rows):
                        return

    def drop(self, views: Sequence[str]) -> None:
        """Remove their rows. How they are stored stays, because open readers know it."""
        name = self.current()
        with self.reaching():
            if name is None:
                return
            described = self.described(name)
            for view in described.keys() & {*views}:
                self.client.hset(GENERATIONS, name, self._pushed(name))
                self.client.hset(_views(name), view, replace(described[view], filled=0).to_json())
                self.unlink(name, view, described[view])

    def remove_all(self) -> None:
        """The pointer first; a loader is waited for."""
        with self.reaching(), self._leased() as lease:
            self.client.delete(POINTER)
            self.clean(lease)

    def reaching(self) -> Any:
        """OnlineStoreUnreachableError when the server does not answer."""
        return reaching(self.where, *DOWN, explained=self._explained)

    def _ensure_options(self) -> None:
        """Else the client raises a TypeError at the first command, or says that some file is missing and not which
        one.
        """
        pool = self.client.connection_pool
        try:
            pool.connection_class(**pool.connection_kwargs)
        except (TypeError, redis.RedisError) as error:
            unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            fault = f"{unknown[1]} is not an option of {self.where.partition('://')[0]}://" if unknown else str(error)
            raise OnlineStoreUnfitError(f"MILLRACE_ONLINE ({self.where}): {fault}. {OPTIONS}") from None
        for option in FILES:
            path = pool.connection_kwargs.get(option)
            if path and not os.access(path, os.R_OK):
                raise OnlineStoreUnfitError(
                    f"MILLRACE_ONLINE ({self.where}): {option} names {path}, which cannot be read. {OPTIONS}"
                )

    def _explained(self, text: str) -> Explained | None:
        """What keeps a connection from being encrypted.

        A client and a server that do not speak alike part without a reason, so the server is asked once more.
        """
        fault, known = tls.classify(text), self.client.connection_pool.connection_kwargs
        if fault is None and (host := known.get("host")):
            port = known.get("port", 6379)
            if not self.where.startswith("rediss://"):
                fault = tls.Fault.ENCRYPTED if CUT.search(text) and tls.speaks_tls(host, port) else None
            elif CUT.search(text):
                fault = tls.probe(host, port, known.get("ssl_ca_certs"))
            elif "Timeout connecting" in text:
                fault = tls.Fault.PLAIN if _speaks_plainly(host, port) else None
        return WORDS.explained(fault) if fault else None

    def described(self, name: str) -> dict[str, StoredSchema]:
        """The views of a generation."""
        stored: Any = self.client.hgetall(_views(name))
        return {view.decode(): StoredSchema.of(text) for view, text in stored.items()}

    def ensure_whole(self, name: str) -> GenerationMetadata:
        """What the generation was made from.

        OnlineStoreDamagedError unless it says so, has the views that it names, and as many of their buckets as it had;
        GenerationGoneError where that is so because it is no longer in use.
        """
        with self.reaching():
            stored: Any = self.client.hget(GENERATIONS, name)
            try:
                about = parsed(stored, name, self.where)
                views = self.described(name)
                short = (
                    view for view, described in views.items() if self._filled(name, view, described) < described.filled
                )
                ensure_views(name, self.where, {*(about.rows.keys() - views.keys()), *short})
            except OnlineStoreDamagedError as error:
                if name != self.current():
                    raise self.gone(name) from error
                raise
        return about

    def gone(self, name: str) -> GenerationGoneError:
        """The error of who reads a generation that is no longer kept."""
        return GenerationGoneError(f"generation {name} was removed from {self.where} while it was read")

    def fill(self, name: str) -> None:
        """Note how many buckets of each view hold rows."""
        for view, described in self.described(name).items():
            filled = replace(described, filled=self._filled(name, view, described))
            self.client.hset(_views(name), view, filled.to_json())

    def _filled(self, name: str, view: str, described: StoredSchema) -> int:
        """How many buckets of a view there are: those without a row do not exist."""
        keys = [_bucket_name(name, view, number) for number in range(described.buckets)]
        counts: Any = [self.client.exists(*keys[start : start + PIPELINED]) for start in range(0, len(keys), PIPELINED)]
        return sum(counts)

    def clean(self, lease: Lock) -> None:
        """Remove generations that are neither current nor former, among them what killed loaders left; none once the
        lease ran out, for then one of them may be somebody's draft.
        """
        unnamed: Any = self._unnamed_script(keys=[POINTER, GENERATIONS, LOCK], args=[_token(lease)])
        for name in unnamed:
            self.remove(name.decode(), self.described(name.decode()))

    def remove(self, name: str, views: dict[str, StoredSchema]) -> None:
        """Remove a generation that nobody reads."""
        for view, described in views.items():
            self.unlink(name, view, described)
        self.client.delete(_views(name))
        self.client.hdel(GENERATIONS, name)

    def unlink(self, name: str, view: str, described: StoredSchema) -> None:
        """Remove the rows of a view."""
        keys = [_bucket_name(name, view, number) for number in range(described.buckets)]
        for start in range(0, len(keys), PIPELINED):
            self.client.unlink(*keys[start : start + PIPELINED])

    def refuse_eviction(self) -> None:
        """A server that throws keys away when its memory is full would serve NULLs and say nothing."""
        found: Any = self.client.info("memory")
        if found.get("maxmemory") and str(found.get("maxmemory_policy", "")).startswith(EVICTING):
            raise OnlineStoreUnfitError(
                f"the Redis at {self.where} evicts keys when its memory is full (maxmemory-policy"
                f" {found['maxmemory_policy']}), and would serve features as absent. Set maxmemory-policy noeviction or"
                " one of volatile-*"
            )

    def _start_empty(self) -> str:
        """A generation for rows that are pushed before anything was materialized; the first of two who come at once
        wins.
        """
        self.refuse_eviction()
        started: Any = self._start_script(
            keys=[POINTER, GENERATIONS], args=[new_name("pushed"), GenerationMetadata().to_json()]
        )
        return str(started.decode())

    def _merged(self, name: str, layout: RowSchema, rows: Sequence[Stored]) -> bool:
        """Whether the generation was still in use, and stored the view as it was looked up to."""
        stored: Any = self.client.hget(_views(name), layout.view)
        view = _widened(StoredSchema.of(stored) if stored else StoredSchema((), (), 1), layout)
        buckets: dict[str, int] = {}
        given: list[Any] = [name, layout.view, stored or b"", view.to_json(), self._pushed(name)]
        for row in rows:
            key, packed = _pack(layout, view, row)
            bucket = _bucket(name, layout.view, key, view.buckets)
            given += [buckets.setdefault(bucket, len(buckets) + 4), key, packed]
        if not stored or (
            buckets and self.client.exists(*buckets) < len(buckets)
        ):  # before a bucket that was lost seems to be there again
            self.ensure_whole(name)
        return bool(self.merge_script(keys=[POINTER, _views(name), GENERATIONS, *buckets], args=given))

    def _pushed(self, name: str) -> str:
        """What is noted of a generation that rows were merged into."""
        stored: Any = self.client.hget(GENERATIONS, name)
        if stored is None:
            self.ensure_whole(name)
        return replace(parsed(stored, name, self.where), pushed=True).to_json()

    @contextmanager
    def _leased(self) -> Iterator[Lock]:
        """Waits for its turn. The lease is renewed beside the work, and falls to the next when this process is gone."""
        lease, done = self.client.lock(LOCK, timeout=LEASE_SECONDS, sleep=0.2, thread_local=False), threading.Event()
        lease.acquire()

        def renew() -> None:
            while not done.wait(LEASE_SECONDS / 3):
                try:
                    lease.reacquire()
                except redis.RedisError:
                    continue  # publishing finds out whether it is still ours

        renewing = threading.Thread(target=renew, daemon=True)
        renewing.start()
        try:
            yield lease
        finally:
            done.set()
            renewing.join()
            with suppress(LockError):  # it had run out
                lease.release()


def _speaks_plainly(host: str, port: int) -> bool:
    """Whether a Redis answers without encryption; in its protocol an answer begins with + or -."""
    with suppress(OSError), socket.create_connection((host, port), tls.SECONDS) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(1) in (b"+", b"-")
    return False


class RedisSession:
    """Remembers the reader of the generation in use."""

    def __init__(self, place: RedisBackend) -> None:
        self._place = place
        self._reader: RedisReader | None = None

    def reader(self) -> RedisReader:
        """OnlineStoreEmptyError when nothing is online."""
        name = self._place.current()
        if name is None:
            raise empty(self._place.where)
        if self._reader is None or self._reader.name != name:
            self._reader = RedisReader(self._place, name)
        return self._reader


class RedisReader:
    """A generation and how its views are stored. `pinned`: it need not be one that the pointer names."""

    def __init__(self, place: RedisBackend, name: str, *, pinned: bool = False) -> None:
        self._place, self.name, self._pinned = place, name, pinned
        with place.reaching():
            self._views = place.described(name)
            if not self._views:
                place.ensure_whole(name)

    def begin(self) -> None:
        """Nothing: rows that are pushed during a request may be seen by a part of it."""

    def end(self) -> None:
        """Nothing."""

    def rows(self, layout: RowSchema, features: Sequence[str], keys: Sequence[Key]) -> list[Found | None]:
        """One round trip, and another for keys without a row. The pointer is looked at last: a generation that it still
        names was whole when its rows were read.
        """
        view = self._view(layout, features)
        if view is None or not keys:
            return [None] * len(keys)
        pipe = self._place.client.pipeline(transaction=False)
        for key in keys:
            packed = _packed(key)
            pipe.hget(_bucket(self.name, layout.view, packed, view.buckets), packed)
        pipe.hvals(POINTER)
        with self._place.reaching():
            *found, named = pipe.execute()
            self._refuse_gone(named)
            buckets = {
                _bucket(self.name, layout.view, _packed(key), view.buckets)
                for key, row in zip(keys, found, strict=True)
                if row is None
            }
            if buckets and self._place.client.exists(*buckets) < len(buckets):
                self._place.ensure_whole(self.name)
        at = {name: place for place, name in enumerate(view.features)}
        places = [at.get(name, len(at)) for name in features]
        changed = {
            place: layout.features[name].proto
            for place, name in enumerate(features, 1)
            if name in at and view.protos[at[name]] != layout.features[name].proto
        }
        rows = [None if row is None else _unpack(row, places) for row in found]
        return [row and retyped_row(row, changed) for row in rows] if changed else rows

    def keys(self, layout: RowSchema, some: int | None) -> list[Key]:
        """Of all buckets, or of some at random until there are enough."""
        view = self._view(layout, ())
        buckets = list(range(view.buckets if view else 0))
        random.shuffle(buckets)
        found: list[Key] = []
        with self._place.reaching():
            for number in buckets:
                listed: Any = self._place.client.hkeys(_bucket_name(self.name, layout.view, number))
                found += [tuple(_unpacked(key)) for key in listed]
                if some is not None and len(found) >= some:
                    found = random.sample(found, some)
                    break
            self._refuse_gone(self._place.client.hvals(POINTER))
        return found

    def _view(self, layout: RowSchema, features: Sequence[str]) -> StoredSchema | None:
        """None while the generation does not have the view; a push may add it, or a feature."""
        known = self._views.get(layout.view)
        if known is None or not set(features) <= {*known.features}:
            with self._place.reaching():
                self._views = self._place.described(self.name)
                self._refuse_gone(self._place.client.hvals(POINTER))
                if layout.view not in self._views:
                    self._place.ensure_whole(self.name)
        return self._views.get(layout.view)

    def _refuse_gone(self, named: Any) -> None:
        """`named` is what the pointer names after something was read."""
        if not self._pinned and self.name.encode() not in named:
            raise self._place.gone(self.name)


class RedisDraft:
    """Keys that begin with a generation's name, which no pointer names yet."""

    def __init__(self, place: RedisBackend, label: str, lease: Lock) -> None:
        self.name, self._place, self._lease, self._like = new_name(label), place, lease, ""
        self._described: dict[str, StoredSchema] = {}
        place.refuse_eviction()
        place.client.hset(GENERATIONS, self.name, GenerationMetadata().to_json())

    def copy_from(self, name: str) -> None:
        """Its rows are copied where a view is changed."""
        self._like = name

    def load(self, layout: RowSchema, batches: Iterable[Sequence[Stored]]) -> int:
        """One batch has as many buckets as its rows fill; many have many."""
        coming = iter(batches)
        first: Sequence[Stored] = next(coming, [])
        second = next(coming, None)
        buckets = max(1, len(first) // ROWS_OF_BUCKET) if second is None else MANY
        view, rows = self._describe(layout, StoredSchema.by(layout, buckets)), 0
        for batch in chain([first, second or []], coming):
            self._write(layout, view, batch)
            rows += len(batch)
        return rows

    def apply_changes(self, layout: RowSchema, keys: Sequence[Key], batches: Iterable[Sequence[Stored]]) -> int:
        """The other generation's buckets are copied inside the server."""
        client, former = self._place.client, self._like
        view = self._describe(layout, self._place.described(former)[layout.view])
        pipe = client.pipeline(transaction=False)
        for number in range(view.buckets):
            pipe.copy(_bucket_name(former, layout.view, number), _bucket_name(self.name, layout.view, number))
            _flush(pipe)
        for key in keys:
            packed = _packed(key)
            pipe.hdel(_bucket(self.name, layout.view, packed, view.buckets), packed)
            _flush(pipe)
        pipe.execute()
        for batch in batches:
            self._write(layout, view, batch)
        for number in range(view.buckets):
            pipe.hlen(_bucket_name(self.name, layout.view, number))
        return sum(pipe.execute())

    def finish(self, about: GenerationMetadata) -> None:
        """Say what it is made from. How durable it is, the server's persistence says."""
        self._place.fill(self.name)
        self._place.client.hset(GENERATIONS, self.name, about.to_json())

    def publish(self) -> None:
        """In a script that sees to it that the lease is still ours."""
        if not self._place.publish_script(keys=[POINTER, LOCK], args=[self.name, _token(self._lease)]):
            raise redis.RedisError(LEASE_RAN_OUT)

    def discard(self) -> None:
        """Remove what was written, whoever else removed a part of it meanwhile; does no harm after `publish`."""
        named: Any = self._place.client.hvals(POINTER)
        if self.name.encode() not in named:
            self._place.remove(self.name, self._described)

    def _describe(self, layout: RowSchema, view: StoredSchema) -> StoredSchema:
        if not self._lease.owned():
            raise redis.RedisError(LEASE_RAN_OUT)
        self._described[layout.view] = view
        self._place.client.hset(_views(self.name), layout.view, view.to_json())
        return view

    def _write(self, layout: RowSchema, view: StoredSchema, batch: Sequence[Stored]) -> None:
        buckets: defaultdict[str, list[bytes]] = defaultdict(list)
        pipe = self._place.client.pipeline(transaction=False)
        for row in batch:
            key, packed = _pack(layout, view, row)
            buckets[_bucket(self.name, layout.view, key, view.buckets)] += [key, packed]
        for bucket, items in buckets.items():
            pipe.hset(bucket, items=items)
            _flush(pipe)
        pipe.execute()


def _token(lease: Lock) -> Any:
    return lease.local.token


def _widened(view: StoredSchema, layout: RowSchema) -> StoredSchema:
    """With all features of the layout; new ones come last, so that rows which lack them can be read."""
    added = {name: kind.proto for name, kind in layout.features.items() if name not in view.features}
    return replace(view, features=(*view.features, *added), protos=(*view.protos, *added.values()))


def _flush(pipe: Any) -> None:
    if len(pipe) >= PIPELINED:
        pipe.execute()


def _views(name: str) -> str:
    return f"millrace:{name}:views"


def _bucket(name: str, view: str, key: bytes, buckets: int) -> str:
    return _bucket_name(name, view, crc32(key) % buckets)


def _bucket_name(name: str, view: str, number: int) -> str:
    return f"millrace:{name}:{view}:{number}"


def _pack(layout: RowSchema, view: StoredSchema, row: Stored) -> tuple[bytes, bytes]:
    """Field and value of a row."""
    width = len(layout.keys)
    event, created, values = row[width], row[width + 1], row[width + 2 :]
    if view.features != tuple(layout.features):
        given = dict(zip(layout.features, values, strict=True))
        values = [given.get(name) for name in view.features]
    return _packed(row[:width]), HEAD.pack(event, NEVER if created is None else created) + _packed(values)


def _unpack(row: bytes, places: list[int]) -> Found:
    values = _unpacked(memoryview(row)[HEAD.size :])
    values += [None] * (
        max(places, default=-1) + 1 - len(values)
    )  # a row from before a feature was added, or a feature that was never written
    return (HEAD.unpack_from(row)[0], *(values[at] for at in places))
