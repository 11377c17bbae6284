"""Generations in Redis: each view is some hundreds of hashes (buckets) of packed key -> packed row; a script moves the
pointer, which is a hash too.

A row is two big-endian integers (event time, creation time), then its features in MessagePack, in the order of the
view's StoredSchema, so a script on the server can tell which of two rows is newer. Buckets are copied and removed one
by one, so other clients of the server wait no longer than one bucket takes. A loader holds a lease, renewed while it
works; the pointer moves only for the holder of the lease.
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
    GenerationGoneError,
    GenerationMetadata,
    Key,
    OnlineStoreDamagedError,
    OnlineStoreUnfitError,
    ReadRow,
    RowSchema,
    StoredRow,
    empty_error,
    ensure_views,
    new_name,
    parse_metadata,
)
from features.online.server import ANSWER_SECONDS, CONNECT_SECONDS, SETTING, mask_url, translate_errors
from features.streaming.redis import RedisTailStore
from features.streaming.tail_store import TailRows
from features.type_mapping import convert_row
from lake import tls
from lake.tls import Explanation, OptionNames

POINTER = "millrace:online"
GENERATIONS = "millrace:generations"
"""Hash of generation -> metadata. Entries are written before a generation's first row, so that what a killed loader
left can be found.
"""
LOCK = "millrace:loading"
LEASE_SECONDS = 30.0
ROWS_PER_BUCKET, MANY_BUCKETS = 256, 4_096
"""A view of more than one batch has MANY_BUCKETS; with a million rows, each holds a few hundred."""
PIPELINE_SIZE = 2_000
"""Commands per round trip."""
NO_CREATION_TIME = -(2**63)
HEAD = struct.Struct(">qq")
CONNECTION_ERRORS = (redis.RedisError,)
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
OPTIONS = f"A server behind TLS is rediss://user:password@host:port/database, and its options are {', '.join(FILES)}"
OPTION_NAMES = OptionNames(
    SETTING,
    "ssl_ca_certs",
    "ssl_certfile and ssl_keyfile",
    "Begin MILLRACE_ONLINE with redis://",
    "Begin MILLRACE_ONLINE with rediss://",
)
CONNECTION_CLOSED = re.compile(r"reset by peer|closed by server|violation of protocol|Broken pipe")
EVICTING = "allkeys"
DATABASE = re.compile(r"unix://.*|rediss?://[^/]*(/\d*)?")
LEASE_RAN_OUT = "the lease ran out while the generation was loaded, and another process may be loading now; run again"

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
    """How a view is stored in a generation: features in the order of a row, their fields of Feast's `Value`, number of
    buckets.

    `filled` buckets held rows when the generation was completed; fewer mean that some were lost. 0 if it was not
    recorded.
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
    def by(cls, row_schema: RowSchema, buckets: int) -> StoredSchema:
        """The stored schema of a RowSchema."""
        return cls(
            tuple(row_schema.features), tuple(mapping.proto for mapping in row_schema.features.values()), buckets
        )


class RedisBackend:
    """One database of a Redis server."""

    def __init__(self, url: str) -> None:
        self.where = mask_url(url)
        # retry once after a broken connection, as after a restart of the server, but not after a timeout
        options: dict[str, Any] = {
            "socket_timeout": ANSWER_SECONDS,
            "socket_connect_timeout": CONNECT_SECONDS,
            "retry": Retry(NoBackoff(), 1, (redis.ConnectionError,)),
        }
        try:
            if not DATABASE.fullmatch(self.where):  # which the client would read as number 0
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
        self._tails = RedisTailStore(self.client, self.translate_errors, self.ensure_no_eviction)

    def current(self) -> str | None:
        """One command."""
        with self.translate_errors():
            name: Any = self.client.hget(POINTER, "current")
            return name.decode() if name else None

    def metadata(self) -> GenerationMetadata | None:
        """Metadata, read from GENERATIONS."""
        while (name := self.current()) is not None:
            try:
                return self.ensure_complete(name)
            except GenerationGoneError:
                continue
        return None

    def published_at(self) -> datetime | None:
        """By the server's clock, kept beside the pointer."""
        with self.translate_errors():
            seconds: Any = self.client.hget(POINTER, "published_at")
        return datetime.fromtimestamp(int(seconds), UTC) if seconds else None

    def session(self) -> RedisSession:
        """A session, which reads the pointer with one command per request."""
        return RedisSession(self)

    def open(self, name: str) -> RedisReader:
        """A reader over the connection pool that all threads share."""
        return RedisReader(self, name, pinned=True)

    @contextmanager
    def drafting(self, label: str) -> Iterator[RedisDraft]:
        """A draft; one at a time per database."""
        with self.translate_errors(), self._lease() as lease:
            self.clean(lease)
            draft = RedisDraft(self, label, lease)
            try:
                yield draft
            finally:
                draft.discard()
                self.clean(lease)

    def merge(self, row_schema: RowSchema, rows: Sequence[StoredRow]) -> None:
        """Merge in one script. After a publication or a push of other features in between it does nothing, and the rows
        are packed again.
        """
        with self.translate_errors():
            while True:
                with suppress(GenerationGoneError):
                    if self._try_merge(self.current() or self._start_empty(), row_schema, rows):
                        return

    def drop(self, views: Sequence[str]) -> None:
        """Remove the views' rows. Their StoredSchema stays, because open readers use it."""
        name = self.current()
        with self.translate_errors():
            if name is None:
                return
            schemas = self.stored_schemas(name)
            for view in schemas.keys() & {*views}:
                self.client.hset(GENERATIONS, name, self._pushed_metadata(name))
                self.client.hset(_views(name), view, replace(schemas[view], filled=0).to_json())
                self.unlink(name, view, schemas[view])

    def remove_all(self) -> None:
        """Remove the pointer, then all generations, after waiting for a running loader."""
        with self.translate_errors(), self._lease() as lease:
            self.client.delete(POINTER)
            self.clean(lease)
            self._tails.remove([])

    def tails(self) -> RedisTailStore:
        """Keys of their own."""
        return self._tails

    def translate_errors(self) -> Any:
        """OnlineStoreUnreachableError when the server does not answer."""
        return translate_errors(self.where, *CONNECTION_ERRORS, explain=self._explain)

    def _ensure_options(self) -> None:
        """Raise OnlineStoreUnfitError for unknown options and unreadable files; the client itself would fail at the
        first command, without naming the file.
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

    def _explain(self, text: str) -> Explanation | None:
        """What keeps a connection from being encrypted.

        A TLS mismatch closes the connection without a reason, so the server is probed again.
        """
        fault, options = tls.classify(text), self.client.connection_pool.connection_kwargs
        if fault is None and (host := options.get("host")):
            port = options.get("port", 6379)
            if not self.where.startswith("rediss://"):
                fault = tls.Fault.ENCRYPTED if CONNECTION_CLOSED.search(text) and tls.speaks_tls(host, port) else None
            elif CONNECTION_CLOSED.search(text):
                fault = tls.probe(host, port, options.get("ssl_ca_certs"))
            elif "Timeout connecting" in text:
                fault = tls.Fault.PLAIN if _speaks_plainly(host, port) else None
        return OPTION_NAMES.explain(fault) if fault else None

    def stored_schemas(self, name: str) -> dict[str, StoredSchema]:
        """View -> StoredSchema of a generation."""
        stored: Any = self.client.hgetall(_views(name))
        return {view.decode(): StoredSchema.of(text) for view, text in stored.items()}

    def ensure_complete(self, name: str) -> GenerationMetadata:
        """The generation's metadata.

        OnlineStoreDamagedError when it is missing, or views or buckets are; GenerationGoneError when the reason is that
        the generation is no longer in use.
        """
        with self.translate_errors():
            stored: Any = self.client.hget(GENERATIONS, name)
            try:
                metadata = parse_metadata(stored, name, self.where)
                views = self.stored_schemas(name)
                short = (view for view, schema in views.items() if self._filled(name, view, schema) < schema.filled)
                ensure_views(name, self.where, {*(metadata.rows.keys() - views.keys()), *short})
            except OnlineStoreDamagedError as error:
                if name != self.current():
                    raise self.gone_error(name) from error
                raise
        return metadata

    def gone_error(self, name: str) -> GenerationGoneError:
        """The error for a reader of a removed generation."""
        return GenerationGoneError(f"generation {name} was removed from {self.where} while it was read")

    def record_filled_buckets(self, name: str) -> None:
        """Record how many buckets of each view hold rows."""
        for view, schema in self.stored_schemas(name).items():
            filled = replace(schema, filled=self._filled(name, view, schema))
            self.client.hset(_views(name), view, filled.to_json())

    def _filled(self, name: str, view: str, schema: StoredSchema) -> int:
        """Number of a view's buckets that exist, which are those with rows."""
        keys = [_bucket_name(name, view, number) for number in range(schema.buckets)]
        counts: Any = [
            self.client.exists(*keys[start : start + PIPELINE_SIZE]) for start in range(0, len(keys), PIPELINE_SIZE)
        ]
        return sum(counts)

    def clean(self, lease: Lock) -> None:
        """Remove generations other than the current and the previous one, including what killed loaders left; none if
        the lease expired, because one of them may be another loader's draft.
        """
        unnamed: Any = self._unnamed_script(keys=[POINTER, GENERATIONS, LOCK], args=[_token(lease)])
        for name in unnamed:
            self.remove(name.decode(), self.stored_schemas(name.decode()))

    def remove(self, name: str, views: dict[str, StoredSchema]) -> None:
        """Remove a generation that nobody reads."""
        for view, schema in views.items():
            self.unlink(name, view, schema)
        self.client.delete(_views(name))
        self.client.hdel(GENERATIONS, name)

    def unlink(self, name: str, view: str, schema: StoredSchema) -> None:
        """Remove the rows of a view."""
        keys = [_bucket_name(name, view, number) for number in range(schema.buckets)]
        for start in range(0, len(keys), PIPELINE_SIZE):
            self.client.unlink(*keys[start : start + PIPELINE_SIZE])

    def ensure_no_eviction(self) -> None:
        """Raise OnlineStoreUnfitError if the server evicts keys when its memory is full: it would silently serve
        NULLs.
        """
        memory: Any = self.client.info("memory")
        if memory.get("maxmemory") and str(memory.get("maxmemory_policy", "")).startswith(EVICTING):
            raise OnlineStoreUnfitError(
                f"the Redis at {self.where} evicts keys when its memory is full (maxmemory-policy"
                f" {memory['maxmemory_policy']}), and would serve features as absent. Set maxmemory-policy noeviction"
                " or one of volatile-*"
            )

    def _start_empty(self) -> str:
        """Name of a generation for rows pushed before the first materialization; of two concurrent ones, the first
        wins.
        """
        self.ensure_no_eviction()
        started: Any = self._start_script(
            keys=[POINTER, GENERATIONS], args=[new_name("pushed"), GenerationMetadata().to_json()]
        )
        return str(started.decode())

    def _try_merge(self, name: str, row_schema: RowSchema, rows: Sequence[StoredRow]) -> bool:
        """Try to merge; False if the generation or the view's StoredSchema changed in the meantime."""
        stored: Any = self.client.hget(_views(name), row_schema.view)
        view = _widen(StoredSchema.of(stored) if stored else StoredSchema((), (), 1), row_schema)
        buckets: dict[str, int] = {}
        arguments: list[Any] = [name, row_schema.view, stored or b"", view.to_json(), self._pushed_metadata(name)]
        for row in rows:
            key, packed = _pack(row_schema, view, row)
            bucket = _bucket(name, row_schema.view, key, view.buckets)
            arguments += [buckets.setdefault(bucket, len(buckets) + 4), key, packed]
        # else this merge would recreate, and so hide, a lost bucket
        if not stored or (buckets and self.client.exists(*buckets) < len(buckets)):
            self.ensure_complete(name)
        return bool(self.merge_script(keys=[POINTER, _views(name), GENERATIONS, *buckets], args=arguments))

    def _pushed_metadata(self, name: str) -> str:
        """The metadata of a generation after a push, as JSON."""
        stored: Any = self.client.hget(GENERATIONS, name)
        if stored is None:
            self.ensure_complete(name)
        return replace(parse_metadata(stored, name, self.where), pushed=True).to_json()

    @contextmanager
    def _lease(self) -> Iterator[Lock]:
        """Wait for the lease and hold it; a thread renews it, and it expires when this process dies."""
        lease, done = self.client.lock(LOCK, timeout=LEASE_SECONDS, sleep=0.2, thread_local=False), threading.Event()
        lease.acquire()

        def renew() -> None:
            while not done.wait(LEASE_SECONDS / 3):
                try:
                    lease.reacquire()
                except redis.RedisError:
                    continue  # publishing checks whether it is still held

        renewing = threading.Thread(target=renew, daemon=True)
        renewing.start()
        try:
            yield lease
        finally:
            done.set()
            renewing.join()
            with suppress(LockError):  # it had expired
                lease.release()


def _speaks_plainly(host: str, port: int) -> bool:
    """Whether a Redis answers without TLS; in its protocol an answer starts with + or -."""
    with suppress(OSError), socket.create_connection((host, port), tls.SECONDS) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(1) in (b"+", b"-")
    return False


class RedisSession:
    """Remembers the reader of the generation in use."""

    def __init__(self, backend: RedisBackend) -> None:
        self._backend = backend
        self._reader: RedisReader | None = None

    def reader(self) -> RedisReader:
        """OnlineStoreEmptyError when nothing is online."""
        name = self._backend.current()
        if name is None:
            raise empty_error(self._backend.where)
        if self._reader is None or self._reader.name != name:
            self._reader = RedisReader(self._backend, name)
        return self._reader


class RedisReader:
    """A generation's rows. `pinned` readers do not check that the pointer names it."""

    def __init__(self, backend: RedisBackend, name: str, *, pinned: bool = False) -> None:
        self._backend, self.name, self._pinned = backend, name, pinned
        with backend.translate_errors():
            self._views = backend.stored_schemas(name)
            if not self._views:
                backend.ensure_complete(name)

    def metadata(self) -> GenerationMetadata:
        """From GENERATIONS."""
        with self._backend.translate_errors():
            stored: Any = self._backend.client.hget(GENERATIONS, self.name)
        return (
            parse_metadata(stored, self.name, self._backend.where)
            if stored
            else self._backend.ensure_complete(self.name)
        )

    def tail_rows(self, tail: str, keys: Sequence[bytes]) -> TailRows | None:
        """One round trip."""
        return self._backend.tails().rows(tail, keys)

    def begin(self) -> None:
        """Nothing to do: part of a request may see rows that are pushed meanwhile."""

    def end(self) -> None:
        """Nothing to do."""

    def rows(self, row_schema: RowSchema, features: Sequence[str], keys: Sequence[Key]) -> list[ReadRow | None]:
        """One round trip, and another for keys without a row. The pointer is read last: if it still names the
        generation, its rows were complete when they were read.
        """
        view = self._view(row_schema, features)
        if view is None or not keys:
            return [None] * len(keys)
        pipe = self._backend.client.pipeline(transaction=False)
        for key in keys:
            packed = _packed(key)
            pipe.hget(_bucket(self.name, row_schema.view, packed, view.buckets), packed)
        pipe.hvals(POINTER)
        with self._backend.translate_errors():
            *packed_rows, kept = pipe.execute()
            self._ensure_kept(kept)
            buckets = {
                _bucket(self.name, row_schema.view, _packed(key), view.buckets)
                for key, row in zip(keys, packed_rows, strict=True)
                if row is None
            }
            if buckets and self._backend.client.exists(*buckets) < len(buckets):
                self._backend.ensure_complete(self.name)
        position_of = {name: position for position, name in enumerate(view.features)}
        positions = [position_of.get(name, len(position_of)) for name in features]
        changed = {
            position: row_schema.features[name].proto
            for position, name in enumerate(features, 1)
            if name in position_of and view.protos[position_of[name]] != row_schema.features[name].proto
        }
        rows = [None if row is None else _unpack(row, positions) for row in packed_rows]
        return [row and convert_row(row, changed) for row in rows] if changed else rows

    def keys(self, row_schema: RowSchema, limit: int | None) -> list[Key]:
        """Keys of all buckets, or of random buckets until there are enough."""
        view = self._view(row_schema, ())
        buckets = list(range(view.buckets if view else 0))
        random.shuffle(buckets)
        keys: list[Key] = []
        with self._backend.translate_errors():
            for number in buckets:
                packed_keys: Any = self._backend.client.hkeys(_bucket_name(self.name, row_schema.view, number))
                keys += [tuple(_unpacked(key)) for key in packed_keys]
                if limit is not None and len(keys) >= limit:
                    keys = random.sample(keys, limit)
                    break
            self._ensure_kept(self._backend.client.hvals(POINTER))
        return keys

    def _view(self, row_schema: RowSchema, features: Sequence[str]) -> StoredSchema | None:
        """None while the generation lacks the view; a push may add the view, or a feature."""
        schema = self._views.get(row_schema.view)
        if schema is None or not set(features) <= {*schema.features}:
            with self._backend.translate_errors():
                self._views = self._backend.stored_schemas(self.name)
                self._ensure_kept(self._backend.client.hvals(POINTER))
                if row_schema.view not in self._views:
                    self._backend.ensure_complete(self.name)
        return self._views.get(row_schema.view)

    def _ensure_kept(self, kept: Any) -> None:
        """Raise GenerationGoneError unless `kept`, the pointer's values after a read, include this generation."""
        if not self._pinned and self.name.encode() not in kept:
            raise self._backend.gone_error(self.name)


class RedisDraft:
    """Keys under the name of a generation that the pointer does not name yet."""

    def __init__(self, backend: RedisBackend, label: str, lease: Lock) -> None:
        self.name, self._backend, self._lease, self._base_name = new_name(label), backend, lease, ""
        self._stored_schemas: dict[str, StoredSchema] = {}
        backend.ensure_no_eviction()
        backend.client.hset(GENERATIONS, self.name, GenerationMetadata().to_json())

    def copy_from(self, name: str) -> None:
        """Copied later, view by view, in `apply_changes`."""
        self._base_name = name

    def load(self, row_schema: RowSchema, batches: Iterable[Sequence[StoredRow]]) -> int:
        """A single batch gets as many buckets as its rows need, several batches MANY_BUCKETS."""
        remaining = iter(batches)
        first: Sequence[StoredRow] = next(remaining, [])
        second = next(remaining, None)
        buckets = max(1, len(first) // ROWS_PER_BUCKET) if second is None else MANY_BUCKETS
        view, rows = self._describe(row_schema, StoredSchema.by(row_schema, buckets)), 0
        for batch in chain([first, second or []], remaining):
            self._write(row_schema, view, batch)
            rows += len(batch)
        return rows

    def apply_changes(self, row_schema: RowSchema, keys: Sequence[Key], batches: Iterable[Sequence[StoredRow]]) -> int:
        """Copy the other generation's buckets inside the server."""
        client, former = self._backend.client, self._base_name
        view = self._describe(row_schema, self._backend.stored_schemas(former)[row_schema.view])
        pipe = client.pipeline(transaction=False)
        for number in range(view.buckets):
            pipe.copy(_bucket_name(former, row_schema.view, number), _bucket_name(self.name, row_schema.view, number))
            _flush(pipe)
        for key in keys:
            packed = _packed(key)
            pipe.hdel(_bucket(self.name, row_schema.view, packed, view.buckets), packed)
            _flush(pipe)
        pipe.execute()
        for batch in batches:
            self._write(row_schema, view, batch)
        for number in range(view.buckets):
            pipe.hlen(_bucket_name(self.name, row_schema.view, number))
        return sum(pipe.execute())

    def finish(self, metadata: GenerationMetadata) -> None:
        """Write the metadata. Durability depends on the server's persistence settings."""
        self._backend.record_filled_buckets(self.name)
        self._backend.client.hset(GENERATIONS, self.name, metadata.to_json())

    def publish(self) -> None:
        """Move the pointer in a script that checks that this loader still holds the lease."""
        if not self._backend.publish_script(keys=[POINTER, LOCK], args=[self.name, _token(self._lease)]):
            raise redis.RedisError(LEASE_RAN_OUT)

    def discard(self) -> None:
        """Remove what was written; harmless after `publish`."""
        kept: Any = self._backend.client.hvals(POINTER)
        if self.name.encode() not in kept:
            self._backend.remove(self.name, self._stored_schemas)

    def _describe(self, row_schema: RowSchema, view: StoredSchema) -> StoredSchema:
        if not self._lease.owned():
            raise redis.RedisError(LEASE_RAN_OUT)
        self._stored_schemas[row_schema.view] = view
        self._backend.client.hset(_views(self.name), row_schema.view, view.to_json())
        return view

    def _write(self, row_schema: RowSchema, view: StoredSchema, batch: Sequence[StoredRow]) -> None:
        buckets: defaultdict[str, list[bytes]] = defaultdict(list)
        pipe = self._backend.client.pipeline(transaction=False)
        for row in batch:
            key, packed = _pack(row_schema, view, row)
            buckets[_bucket(self.name, row_schema.view, key, view.buckets)] += [key, packed]
        for bucket, items in buckets.items():
            pipe.hset(bucket, items=items)
            _flush(pipe)
        pipe.execute()


def _token(lease: Lock) -> Any:
    return lease.local.token


def _widen(view: StoredSchema, row_schema: RowSchema) -> StoredSchema:
    """The schema with all features of the RowSchema; new ones come last, so that rows without them can still be
    read.
    """
    added = {name: mapping.proto for name, mapping in row_schema.features.items() if name not in view.features}
    return replace(view, features=(*view.features, *added), protos=(*view.protos, *added.values()))


def _flush(pipe: Any) -> None:
    if len(pipe) >= PIPELINE_SIZE:
        pipe.execute()


def _views(name: str) -> str:
    return f"millrace:{name}:views"


def _bucket(name: str, view: str, key: bytes, buckets: int) -> str:
    return _bucket_name(name, view, crc32(key) % buckets)


def _bucket_name(name: str, view: str, number: int) -> str:
    return f"millrace:{name}:{view}:{number}"


def _pack(row_schema: RowSchema, view: StoredSchema, row: StoredRow) -> tuple[bytes, bytes]:
    """Field and value of a row."""
    width = len(row_schema.keys)
    event, created, values = row[width], row[width + 1], row[width + 2 :]
    if view.features != tuple(row_schema.features):
        value_of = dict(zip(row_schema.features, values, strict=True))
        values = [value_of.get(name) for name in view.features]
    return _packed(row[:width]), HEAD.pack(event, NO_CREATION_TIME if created is None else created) + _packed(values)


def _unpack(row: bytes, positions: list[int]) -> ReadRow:
    values = _unpacked(memoryview(row)[HEAD.size :])
    # the row may predate a feature, or the feature was never written
    values += [None] * (max(positions, default=-1) + 1 - len(values))
    return (HEAD.unpack_from(row)[0], *(values[at] for at in positions))
