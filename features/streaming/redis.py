"""Tails in Redis, beside the generations.

A tail has a hash of positions, a hash of events per entity, and per partition a list of its events in the order of the
topic, by which old ones are found. A position carries an epoch, and so does each event; events of another epoch, or
before `complete_from`, do not count. So a script removes any number of events by writing one position, and they are
deleted afterwards in small pieces.

A Redis that came back with an older snapshot has older positions and the events up to them: workers are fenced, and
read the messages again.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import redis

from features.streaming.tail_store import Advance, Entry, FencedError, Position, TailRows, ensure_expected

TAILS = "millrace:tails"
"""Set of tail and partition, for all that may have events."""
EPOCH_BYTES = 6
"""Random bytes of an epoch, which base64 makes 8 characters of."""
OFFSET = struct.Struct(">Q")
FIELD = struct.Struct(">8sQ")
"""Epoch and offset: the name of an event in its entity's hash, and the start of its element in the list."""
PIECE = 1_000
"""Events that one script deletes."""

PARSE = """
local function parse(position)
  local identity, complete_from, next_offset, epoch = string.match(position, '^(%S+) (%S+) (%S+) (%S+)$')
  return {identity = identity, complete_from = complete_from, next_offset = next_offset, epoch = epoch}
end
"""
ADVANCE = (
    PARSE
    + """
local steps, reached, epochs = tonumber(ARGV[1]), {}, {}
for n = 1, steps do
  local at, positions = 8 * n - 6, KEYS[2 * n]
  local name = positions .. ' ' .. ARGV[at]
  local stored = reached[name] or redis.call('HGET', positions, ARGV[at])
  local position = stored and parse(stored)
  local expected = position and position.identity .. ' ' .. position.next_offset or ''
  if expected ~= ARGV[at + 1] then return {n - 1, stored or ''} end
  local begins = ARGV[at + 5] == '1' or not position
  local complete_from = begins and ARGV[at + 3] or position.complete_from
  epochs[n] = begins and ARGV[at + 6] or position.epoch
  reached[name] = table.concat({ARGV[at + 2], complete_from, ARGV[at + 4], epochs[n]}, ' ')
end
local key, arg = 2 * steps + 2, 8 * steps + 2
for n = 1, steps do
  local at, positions, list, added = 8 * n - 6, KEYS[2 * n], KEYS[2 * n + 1], {}
  local prefix = string.len(positions) - string.len('positions') + string.len('entity:') + 1
  redis.call('HSET', positions, ARGV[at], reached[positions .. ' ' .. ARGV[at]])
  redis.call('SADD', KEYS[1], string.sub(list, string.len('millrace:tail:') + 1))
  for number = 1, tonumber(ARGV[at + 7]) do
    local field = epochs[n] .. ARGV[arg]
    redis.call('HSET', KEYS[key], field, ARGV[arg + 1])
    added[#added + 1] = field .. string.sub(KEYS[key], prefix)
    key, arg = key + 1, arg + 2
    if #added == 1000 then
      redis.call('RPUSH', list, unpack(added))
      added = {}
    end
  end
  if #added > 0 then redis.call('RPUSH', list, unpack(added)) end
end
return {}
"""
)
"""Take all steps, or return the number of the first that does not begin where the tail is, and where that is."""
TRIM = (
    PARSE
    + """
for at = 2, #ARGV, 2 do
  local stored = redis.call('HGET', KEYS[1], ARGV[at])
  local position = stored and parse(stored)
  if position and position.identity == ARGV[1] and tonumber(position.complete_from) < tonumber(ARGV[at + 1]) then
    local trimmed = {position.identity, ARGV[at + 1], position.next_offset, position.epoch}
    redis.call('HSET', KEYS[1], ARGV[at], table.concat(trimmed, ' '))
  end
end
"""
)
COLLECT = (
    PARSE
    + """
local stored, deleted = redis.call('HGET', KEYS[1], ARGV[1]), 0
local position = stored and parse(stored)
local elements = redis.call('LRANGE', KEYS[2], 0, #KEYS - 3)
for n, element in ipairs(elements) do
  local high, low = struct.unpack('>I4I4', element, 9)
  local offset, key = high * 4294967296 + low, KEYS[n + 2]
  local counts = position and position.epoch == string.sub(element, 1, 8) and offset >= tonumber(position.complete_from)
  if counts or ARGV[2] .. string.sub(element, 17) ~= key then break end
  redis.call('HDEL', key, string.sub(element, 1, 16))
  deleted = n
end
if deleted > 0 then redis.call('LTRIM', KEYS[2], deleted, -1) end
return deleted
"""
)
"""Delete the first events of a partition's list that count no more, if the list still begins with the events of these
entities.
"""
FORGET = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 and redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('SREM', KEYS[1], ARGV[2])
end
"""


class RedisTailStore:
    """Keys of one database. `ensure_fit` raises where the server would lose events."""

    def __init__(
        self,
        client: redis.Redis,
        translate_errors: Callable[[], AbstractContextManager[None]],
        ensure_fit: Callable[[], None],
    ) -> None:
        self._client, self._translate_errors, self._ensure_fit = client, translate_errors, ensure_fit
        self._advance, self._trim = client.register_script(ADVANCE), client.register_script(TRIM)
        self._collect, self._forget = client.register_script(COLLECT), client.register_script(FORGET)

    def positions(self, tail: str) -> dict[int, Position]:
        """From the tail's hash."""
        with self._translate_errors():
            stored: Any = self._client.hgetall(_positions(tail))
        known = {int(partition): _Stored.of(text) for partition, text in stored.items()}
        return {n: Position(of.identity, of.complete_from, of.next_offset) for n, of in known.items()}

    def advance(self, steps: Sequence[Advance]) -> None:
        """In one script. What a step clears counts no more, and is deleted afterwards."""
        begun = [step for step in steps if step.clears or step.expected is None]
        with self._translate_errors():
            if begun:
                self._ensure_fit()
            fenced: Any = self._advance(*_arguments(steps))
        if fenced:
            step, stored = steps[fenced[0]], fenced[1]
            ensure_expected(step, _Stored.of(stored) if stored else None)
            raise FencedError(f"{step.tail} is not at {step.expected} in partition {step.partition}")
        for step in begun:
            self._collect_all(step.tail, step.partition)

    def trim(self, tail: str, identity: int, offsets: Mapping[int, int]) -> None:
        """In one script for all partitions. The events, which count no more, are deleted afterwards."""
        arguments = [identity, *(number for pair in offsets.items() for number in pair)]
        with self._translate_errors():
            self._trim(keys=[_positions(tail)], args=arguments)
        for partition in offsets:
            self._collect_all(tail, partition)

    def remove(self, keep: Sequence[str]) -> list[str]:
        """Positions first, in one command: without them no event counts."""
        with self._translate_errors():
            known: Any = self._client.smembers(TAILS)
            lists = [(tail, int(partition)) for tail, _, partition in (m.decode().rpartition(":list:") for m in known)]
            removed = sorted({tail for tail, _ in lists if tail not in keep})
            for tail in removed:
                self._client.delete(_positions(tail))
            for tail, partition in lists:
                if tail in removed:
                    self._collect_all(tail, partition)
                    keys = [TAILS, _positions(tail), _list(tail, partition)]
                    self._forget(keys=keys, args=[partition, f"{tail}:list:{partition}"])
        return removed

    def rows(self, tail: str, keys: Sequence[bytes]) -> TailRows | None:
        """The entries of each key, in one round trip; None where there is no such tail."""
        pipe = self._client.pipeline(transaction=False)
        pipe.hgetall(_positions(tail))
        for key in keys:
            pipe.hgetall(_entity(tail, key))
        with self._translate_errors():
            positions, *entities = pipe.execute()
        stored = {int(partition): _Stored.of(text) for partition, text in positions.items()}
        if not stored:
            return None
        known = {position.epoch: (partition, position.complete_from) for partition, position in stored.items()}
        identities = {partition: position.identity for partition, position in stored.items()}
        return TailRows(identities, [_entries(entity, known) for entity in entities])

    def _collect_all(self, tail: str, partition: int) -> None:
        """Delete a partition's events that count no more."""
        own: list[str | bytes] = [_positions(tail), _list(tail, partition)]
        with self._translate_errors():
            while True:
                elements: Any = self._client.lrange(_list(tail, partition), 0, PIECE - 1)
                entities = [_entity(tail, element[FIELD.size :]) for element in elements]
                deleted: Any = self._collect(keys=[*own, *entities], args=[partition, _entity(tail, b"")])
                if deleted < PIECE:
                    break


@dataclass(frozen=True)
class _Stored(Position):
    """A position as it is stored."""

    epoch: bytes

    @classmethod
    def of(cls, text: bytes) -> _Stored:
        identity, complete_from, next_offset, epoch = text.split()
        return cls(int(identity), int(complete_from), int(next_offset), epoch)


def _arguments(steps: Sequence[Advance]) -> tuple[list[str | bytes], list[Any]]:
    """Keys and arguments of ADVANCE: those of the steps first, then those of their entries."""
    keys: list[str | bytes] = [TAILS]
    arguments: list[Any] = [len(steps)]
    for step in steps:
        expected, reached = step.expected, step.reached
        keys += [_positions(step.tail), _list(step.tail, step.partition)]
        arguments += [
            step.partition,
            f"{expected.identity} {expected.next_offset}" if expected else "",
            reached.identity,
            reached.complete_from,
            reached.next_offset,
            int(step.clears),
            secrets.token_urlsafe(EPOCH_BYTES),
            len(step.entries),
        ]
    for step in steps:
        for key, offset, payload in sorted(step.entries, key=lambda entry: entry[1]):
            keys.append(_entity(step.tail, key))
            arguments += [OFFSET.pack(offset), payload]
    return keys, arguments


def _entries(entity: Mapping[bytes, bytes], known: Mapping[bytes, tuple[int, int]]) -> list[Entry]:
    """An entity's events of the current epochs."""
    entries = []
    for field, payload in entity.items():
        epoch, offset = FIELD.unpack(field)
        if epoch in known:
            partition, complete_from = known[epoch]
            if offset >= complete_from:
                entries.append(Entry(partition, offset, payload))
    return entries


def _positions(tail: str) -> str:
    return f"millrace:tail:{tail}:positions"


def _list(tail: str, partition: int) -> str:
    return f"millrace:tail:{tail}:list:{partition}"


def _entity(tail: str, key: bytes) -> bytes:
    return f"millrace:tail:{tail}:entity:".encode() + key
