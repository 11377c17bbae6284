"""A lake in an S3 bucket: how it is reached, what its errors mean, and a lock made of conditional PUTs."""

from __future__ import annotations

import io
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from obstore.store import S3Store

SCHEMES = ("s3", "s3a")
LEASE_SECONDS = 30.0
"""A lease that was not renewed for so long belongs to a process that is gone."""
POLL_SECONDS = 0.5
READ_AHEAD = 1 << 18
"""Bytes that a small read of an object fetches: page headers and footers lie close together."""
RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
"""Of requests that a store answers with "try again", or not at all."""


class StorageError(RuntimeError):
    """The object store cannot be used as configured. `told` is what it answered, `remedy` what to do; the message has both."""

    def __init__(self, message: str, told: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.told, self.remedy = told or message, remedy


class LockedError(TimeoutError):
    """Another process holds the lock, and went on holding it."""


def place(root: str) -> Path:
    """`s3://bucket/key` as a `UPath`, which has the methods of `Path`."""
    scheme, _, rest = root.partition("://")
    if scheme not in SCHEMES:
        raise StorageError(f"{root} is neither a folder nor s3://bucket/path, and nothing else can hold a lake")
    bucket, _, key = rest.partition("/")
    if not bucket or not key.strip("/"):
        raise StorageError(f"{root} does not name a folder in a bucket. Use s3://bucket/path")
    for name, value in environment().items():
        os.environ.setdefault(name, value)
    from upath import UPath

    _register()
    return cast("Path", UPath(f"s3://{bucket}/{key.strip('/')}"))


def environment() -> dict[str, str]:
    """What the engines and delta-rs read besides the credentials: one endpoint, under each of the names that they know it by."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    found = {"AWS_REGION": region}
    if endpoint:
        found |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT": endpoint, "AWS_ALLOW_HTTP": "true" if endpoint.startswith("http://") else "false"}
    return found


@cache
def _register() -> None:
    """Have `s3://` paths opened by the same Rust client that delta-rs and Sail have inside."""
    import fsspec
    from obstore.fsspec import FsspecStore

    class S3(FsspecStore):
        protocol = "s3"

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{"retry_config": RETRIES, **options})

        def _open(self, path: str, mode: str = "rb", block_size: Any = None, autocommit: Any = True, cache_options: Any = None, **options: Any) -> Any:
            return ObjectReader(path) if mode == "rb" else super()._open(path, mode, block_size, autocommit, cache_options, **options)

    fsspec.register_implementation("s3", S3, clobber=True)


class ObjectReader(io.RawIOBase):
    """An object as a file with a position for each thread.

    DuckDB reads a file by several threads at once through one handle: it seeks, lets go of Python's lock, and reads. With one position for all, a thread reads from where another
    one wanted to: decompression fails where one is lucky, and where nothing is compressed the rows are wrong.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._store, self._key = located(path if "://" in path else f"s3://{path}")
        with answering(self.path):
            self.size = self._store.head(self._key)["size"]
        self._positions: dict[int, int] = {}
        self._ahead: dict[int, tuple[int, bytes]] = {}

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """This thread's position."""
        return self._positions.get(threading.get_ident(), 0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set this thread's position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self.size}[whence]
        self._positions[threading.get_ident()] = start + offset
        return start + offset

    def read(self, length: int | None = -1) -> bytes:
        """From this thread's position; small reads are cut out of one larger request."""
        me, start = threading.get_ident(), self.tell()
        end = self.size if length is None or length < 0 else min(start + length, self.size)
        if end <= start:
            return b""
        first, ahead = self._ahead.get(me, (0, b""))
        if not first <= start <= end <= first + len(ahead):
            first = start
            with answering(self.path):
                ahead = bytes(self._store.get_range(self._key, start=start, end=min(max(end, start + READ_AHEAD), self.size)))
            self._ahead[me] = (first, ahead if len(ahead) <= READ_AHEAD else b"")
        self._positions[me] = end
        return ahead[start - first : end - first]

    def readall(self) -> bytes:
        """To the end."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """Fill what fits."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


@cache
def _store(bucket: str) -> S3Store:
    from obstore.store import S3Store

    return S3Store(bucket, retry_config=RETRIES)


def located(path: Path | str) -> tuple[S3Store, str]:
    """The bucket of a path, and the key in it."""
    parts = urlsplit(str(path))
    return _store(parts.netloc), parts.path.strip("/")


@contextmanager
def answering(path: Path | str) -> Iterator[None]:
    """Say what the store answers in a sentence, with what can be done about it. FileNotFoundError of a single object stays as it is."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError, PermissionError) as error:
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            raise
        told, remedy = explained(str(error)) or (" ".join(str(error).split())[:300], SEE_ENDPOINT)
        raise StorageError(f"{path} cannot be used: {told}. {remedy}", told, remedy) from error


SEE_CREDENTIALS = "See that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are right, and that they may list, read and write there"
SEE_ENDPOINT = "See that AWS_ENDPOINT_URL is right, or unset for AWS itself, and that the store answers"
SEE_BUCKET = "Create the bucket, or point MILLRACE_LAKE to another one"
SEE_STORE = "See that the store has room and takes writes"
REMEDIES = dict.fromkeys(("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"), SEE_CREDENTIALS)
REMEDIES["NoSuchBucket"] = SEE_BUCKET
"""By S3's error codes."""


def explained(text: str) -> tuple[str, str] | None:
    """What went wrong and what can be done, if an S3 client's error says so: those of delta-rs, Sail and obstore, and Hadoop's."""
    if found := re.search(r"<Code>(.*?)</Code>\s*(?:<Message>(.*?)</Message>)?", text, re.DOTALL):
        return f"{(found[2] or 'the store refused').rstrip('.')} ({found[1]})", REMEDIES.get(found[1], SEE_STORE)
    if found := re.search(r"S3Exception: (.*?) \(Service: S3, Status Code: (\d+)", text):
        return f"{found[1].rstrip('.')} (HTTP {found[2]})", SEE_CREDENTIALS if "denied" in found[1].lower() else SEE_STORE
    if "169.254." in text or "Unable to load credentials" in text:
        return "there are no credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if "403 Forbidden" in text:
        return "access is denied", SEE_CREDENTIALS
    if re.search(r"error sending request|[Cc]onnection refused|dns error|Unable to execute HTTP request", text):
        return f"{environment().get('AWS_ENDPOINT_URL', 'AWS')} does not answer", SEE_ENDPOINT
    return None


class Lease:
    """A lock in a bucket: an object that says who holds it, renewed while it is held.

    No clocks are compared: who waits takes an object over when it has not changed for LEASE_SECONDS of the waiter's own. Every change is a conditional PUT,
    so that of two who try only one succeeds. Threads of one process wait for each other without asking the store.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._store, self._key = located(path)
        self._deadline = time.monotonic() + timeout
        self._holder = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}".encode()
        self._tag: Any = None
        self._ended = threading.Event()
        self._inside = _holders.setdefault(str(path), threading.Lock())

    def __enter__(self) -> Lease:
        if not self._inside.acquire(timeout=max(self._deadline - time.monotonic(), 0)):
            raise LockedError(str(self._path))
        try:
            self._acquire()
        except BaseException:
            self._inside.release()
            raise
        self._renewing = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._renewing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._renewing.join()
        with suppress(Exception):  # a lease that cannot be given back runs out
            self._put(b"", self._tag)
        self._inside.release()

    def _acquire(self) -> None:
        seen: Any = None
        since = time.monotonic()
        while True:
            with answering(self._path):
                taken, seen, since = self._try(seen, since)
            if taken:
                return
            if time.monotonic() > self._deadline:
                raise LockedError(str(self._path))
            time.sleep(POLL_SECONDS)

    def _try(self, seen: Any, since: float) -> tuple[bool, Any, float]:
        """Take what is free or has not changed from `seen` for LEASE_SECONDS; also what was found, and since when it is so."""
        found = self._look()
        if found is None:
            return self._put(self._holder, None), None, since
        content, tag = found
        if tag != seen:
            seen, since = tag, time.monotonic()
        free = not content or time.monotonic() - since > LEASE_SECONDS
        return free and self._put(self._holder, tag), seen, since

    def _renew(self) -> None:
        count = 0
        while not self._ended.wait(LEASE_SECONDS / 3):
            count += 1
            with suppress(Exception):  # the store may be back before the lease has run out
                if not self._put(self._holder + b" %d" % count, self._tag):
                    return  # taken over, as after a long sleep of this machine: the commit itself is refused when the table moved

    def _look(self) -> tuple[bytes, Any] | None:
        try:
            found = self._store.get(self._key)
            return bytes(found.bytes()), found.meta["e_tag"]
        except FileNotFoundError:
            return None

    def _put(self, content: bytes, tag: Any) -> bool:
        """Create the object, or change it from what it was; False when somebody else did in the meantime."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._tag = self._store.put(self._key, content, mode={"e_tag": tag} if tag else "create")["e_tag"]
        except (AlreadyExistsError, PreconditionError):
            found = self._look()
            if found is None or found[0] != content or not content:
                return False
            self._tag = found[1]  # ours: the answer to the first try was lost, and the client's second found it done
        return True


_holders: dict[str, threading.Lock] = {}
"""Who waits in this process need not ask the store."""
