"""Lake and landing zone in an S3 bucket: access, the meaning of S3's errors, and a lock made of conditional PUTs."""

from __future__ import annotations

import hashlib
import io
import os
import re
import socket
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from lake import secret_files, tls

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")
R = TypeVar("R")
SCHEMES = ("s3", "s3a")
BUNDLE, CERTIFICATES = "AWS_CA_BUNDLE", "SSL_CERT_FILE"
LEASE_SECONDS = 30.0
"""A lease that was not renewed for so long belongs to a process that is gone."""
POLL_SECONDS = 0.5
READ_AHEAD = 1 << 18
"""Bytes that a small read of an object fetches: page headers and footers lie close together."""
MOST_AHEAD = 8 << 20
"""Bytes that a read of an object fetches at most, when the one before it ended there."""
SMALL = 4 << 20
"""An object of so many bytes at most is fetched as a whole, in one request."""
CONNECTIONS = 8
"""Requests at a time, where many objects are read or written one after the other."""
RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
"""Of requests that a store answers with "try again", or not at all."""


class StorageError(RuntimeError):
    """The object store cannot be used as configured. `told` is what it answered, `remedy` what to do; the message has
    both.
    """

    def __init__(self, message: str, told: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.told, self.remedy = told or message, remedy


class ChangedError(StorageError):
    """A file was replaced or removed while it was read; another run finds it as it is now."""


class LockedError(TimeoutError):
    """Another process holds the lock, and went on holding it."""


def place(root: str) -> Path:
    """`s3://bucket/key` as a `UPath`, which has the methods of `Path`."""
    scheme, _, rest = root.partition("://")
    if scheme not in SCHEMES:
        only = "and nothing else can hold a lake or a landing zone"
        raise StorageError(f"{root} is neither a folder nor s3://bucket/path, {only}")
    bucket, _, key = rest.partition("/")
    if not bucket or not key.strip("/"):
        raise StorageError(f"{root} does not name a folder in a bucket. Use s3://bucket/path")
    if bundle := os.environ.get(BUNDLE):
        _ensure_bundle(bundle)
    secret_files.load()  # the credentials, for those clients that look for them by themselves
    set_environment()
    from upath import UPath

    _register()
    return cast("Path", UPath(f"s3://{bucket}/{key.strip('/')}"))


def set_environment() -> None:
    """Let the clients of this process find the store by the names that they know; what is set already stays."""
    for name, value in environment().items():
        os.environ.setdefault(name, value)


def environment() -> dict[str, str]:
    """What the engines and delta-rs read besides the credentials: one endpoint, under each of the names that they know
    it by.
    """
    endpoint = (
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    found = {"AWS_REGION": region}
    if endpoint:
        found |= {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ENDPOINT": endpoint,
            "AWS_ALLOW_HTTP": "true" if endpoint.startswith("http://") else "false",
        }
    if (bundle := os.environ.get(BUNDLE)) and not (endpoint or "").startswith("http://"):
        found[CERTIFICATES] = (
            os.environ.get(CERTIFICATES) or bundle
        )  # delta-rs, obstore and Sail read this one only, and AWS's own clients the other
    return found


@cache
def _ensure_bundle(path: str) -> None:
    """Else clients go on without an authority, and say that the server is not trusted."""
    try:
        fault = "" if b"-----BEGIN CERTIFICATE-----" in Path(path).read_bytes() else "which holds no certificate in PEM"
    except OSError as error:
        fault = f"which cannot be read: {error.strerror}"
    if fault:
        raise StorageError(
            f"{BUNDLE} names {path}, {fault}. Name a file with the certificates, in PEM, of the authorities that the"
            " store's own certificate may come from"
        )


@cache
def _register() -> None:
    """Have `s3://` paths opened by the same Rust client that delta-rs and Sail have inside."""
    import fsspec
    from obstore.fsspec import FsspecStore

    class S3(FsspecStore):
        protocol = "s3"

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{"retry_config": RETRIES, **options})

        def _open(
            self,
            path: str,
            mode: str = "rb",
            block_size: Any = None,
            autocommit: Any = True,
            cache_options: Any = None,
            **options: Any,
        ) -> Any:
            return (
                ObjectReader(path)
                if mode == "rb"
                else super()._open(path, mode, block_size, autocommit, cache_options, **options)
            )

    fsspec.register_implementation("s3", S3, clobber=True)


class ObjectReader(io.RawIOBase):
    """An object as a file with a position for each thread.

    DuckDB reads a file by several threads at once through one handle: it seeks, lets go of Python's lock, and reads.
    With one position for all, a thread reads from where another one wanted to: decompression fails where one is lucky,
    and where nothing is compressed the rows are wrong.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._store, self._key = located(path if "://" in path else f"s3://{path}")
        self.size = self._find_size()
        self._positions: dict[int, int] = {}
        self._ahead: dict[int, tuple[int, bytes]] = {}

    def _find_size(self) -> int:
        with answering(self.path):
            return int(self._store.head(self._key)["size"])

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """This thread's position."""
        return self._positions.get(self._reader(), 0)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Set this thread's position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self.size}[whence]
        self._positions[self._reader()] = start + offset
        return start + offset

    def read(self, length: int | None = -1) -> bytes:
        """From this thread's position; small reads are cut out of one larger request."""
        me, start = self._reader(), self.tell()
        end = self.size if length is None or length < 0 else min(start + length, self.size)
        if end <= start:
            return b""
        first, ahead = self._ahead.get(me, (0, b""))
        if not first <= start <= end <= first + len(ahead):
            most = self._most_ahead(start == first + len(ahead))
            first, ahead = start, self._fetch(start, min(max(end, start + most), self.size))
            self._ahead[me] = (first, ahead) if len(ahead) <= most else (first + len(ahead), b"")
            self._positions[me] = end
            return ahead[: end - start]
        self._positions[me] = end
        return ahead[start - first : end - first]

    def _reader(self) -> int:
        """Who has a position."""
        return threading.get_ident()

    def _most_ahead(self, sequential: bool) -> int:  # noqa: ARG002 (for subclasses)
        """Bytes to fetch for a small read, which may begin where the last one ended."""
        return READ_AHEAD

    def _fetch(self, start: int, end: int) -> bytes:
        with answering(self.path):
            return bytes(self._store.get_range(self._key, start=start, end=end))

    def readall(self) -> bytes:
        """To the end."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """Fill what fits."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


class Mark(NamedTuple):
    """What tells one state of an object from another."""

    size: int
    state: Any
    """Its ETag; the time of its last change where the store gives none."""

    @classmethod
    def of(cls, meta: Any) -> Mark:
        """The mark of an answer's object."""
        return cls(meta["size"], meta["e_tag"] or meta["last_modified"])


class PinnedReader(ObjectReader):
    """One state of an object as a file. Raises ChangedError once the object is in another one.

    All threads share one position: Arrow reads a CSV on threads of its own, one at a time.
    """

    def __init__(self, path: str, mark: Mark) -> None:
        self.mark = mark
        self._next = READ_AHEAD
        super().__init__(path)

    def _find_size(self) -> int:
        return self.mark.size

    def _reader(self) -> int:
        return 0

    def _most_ahead(self, sequential: bool) -> int:
        self._next = min(2 * self._next, MOST_AHEAD) if sequential else READ_AHEAD
        return self._next

    def _fetch(self, start: int, end: int) -> bytes:
        return fetch(self.path, self.mark, start, end)


def fetch(path: Path | str, mark: Mark, start: int = 0, end: int | None = None) -> bytes:
    """The bytes [start, end) of the object in the state of the mark; ChangedError once it is in another one."""
    store, key = located(path)
    stop = mark.size if end is None else end
    if stop <= start:
        return b""
    options: Any = {"range": (start, stop)}
    if isinstance(mark.state, str):
        options["if_match"] = mark.state
    with _watching(path), answering(path):
        found = store.get(key, options=options)
        if Mark.of(found.meta) != mark:  # by a store that keeps no conditions
            raise _changed(path)
        return bytes(found.bytes())


@contextmanager
def _watching(path: Path | str) -> Iterator[None]:
    """Tell an object that is not the listed one any more from one that cannot be read."""
    from obstore.exceptions import PreconditionError

    try:
        yield
    except (PreconditionError, FileNotFoundError) as error:
        raise _changed(path, gone=isinstance(error, FileNotFoundError)) from error
    except StorageError as error:
        if isinstance(error.__cause__, PreconditionError):
            raise _changed(path) from error
        raise


def _changed(path: Path | str, *, gone: bool = False) -> ChangedError:
    what = f"{path} {'is gone' if gone else 'was replaced'} since this run listed it"
    remedy = "Wait until uploads have ended"
    return ChangedError(f"{what}. {remedy}, then run again", what, remedy)


def digest(path: Path | str) -> tuple[str, ObjectSource]:
    """SHA-256 of the object's content, in hex, and the state that has it: in memory, if it is small."""
    store, key = located(path)
    with _watching(path), answering(path):
        found = store.get(key)
        source = ObjectSource(path, Mark.of(found.meta))
        if source.is_small:
            source.content = bytes(found.bytes())
            return hashlib.sha256(source.content).hexdigest(), source
        hashed = hashlib.sha256()
        for chunk in found.stream(min_chunk_size=1 << 20):
            hashed.update(chunk)
    return hashed.hexdigest(), source


class ObjectSource:
    """One state of an object, to be read several times.

    A small one stays in memory once it was fetched, until it is released; a large one is never in memory as a whole.
    """

    def __init__(self, path: Path | str, mark: Mark | None = None) -> None:
        self.path = str(path)
        self.mark = mark or self._look()
        self.content: bytes | None = None

    def _look(self) -> Mark:
        store, key = located(self.path)
        with _watching(self.path), answering(self.path):
            return Mark.of(store.head(key))

    @property
    def is_small(self) -> bool:
        """Whether it is fetched as a whole."""
        return self.mark.size <= SMALL

    def fetch(self) -> ObjectSource:
        """This source, its content in memory if it is small."""
        if self.is_small and self.content is None:
            self.content = fetch(self.path, self.mark)
        return self

    @property
    def held(self) -> int:
        """Bytes of it in memory."""
        return len(self.content or b"")

    def release(self) -> None:
        """Take it out of memory."""
        self.content = None

    def open(self, mode: str = "rb") -> BinaryIO:  # noqa: ARG002 (as `Path.open`)
        """The content as a file."""
        self.fetch()
        if self.content is not None:
            return io.BytesIO(self.content)
        return cast("BinaryIO", PinnedReader(self.path, self.mark))

    def for_arrow(self) -> Any:
        """What Arrow reads it from."""
        import pyarrow as pa

        self.fetch()
        return pa.BufferReader(self.content) if self.content is not None else PinnedReader(self.path, self.mark)

    def ensure_same(self) -> None:
        """Each read has seen to that already."""


class FolderEntry(NamedTuple):
    """A file or a folder in a bucket, with the methods of `os.DirEntry`."""

    name: str
    path: str
    folder: bool

    def is_dir(self) -> bool:
        """Whether keys lie below it."""
        return self.folder

    def is_file(self) -> bool:
        """Whether it is an object."""
        return not self.folder

    def is_symlink(self) -> bool:
        """A bucket has no links."""
        return False


def exists(folder: Path | str) -> bool:
    """Whether an object lies in the folder, or stands for it."""
    store, key = located(folder)
    with answering(folder):
        return any(store.list(f"{key}/", chunk_size=1))


def entries(folder: Path | str) -> list[FolderEntry]:
    """What lies in a folder. A key that ends in `/` is an empty folder."""
    store, key = located(folder)
    with answering(folder):
        found = store.list_with_delimiter(f"{key}/")
    inside = [(path, True) for path in found["common_prefixes"]]
    inside += [(about["path"], False) for about in found["objects"] if about["path"] != key]  # the folder's own marker
    names = ((path.removeprefix(f"{key}/"), is_folder) for path, is_folder in inside)
    return [FolderEntry(name, f"{folder}/{name}", is_folder) for name, is_folder in names]


def entries_of(folders: Sequence[str]) -> Iterator[list[FolderEntry]]:
    """What lies in each of these folders of one parent, by one listing from the first of them to the last."""
    parents = {folder.rpartition("/")[0] for folder in folders}
    names = [folder.rpartition("/")[2] for folder in folders]
    found: dict[str, dict[str, bool]] = {name: {} for name in names}
    for parent in parents:
        store, key = located(parent)
        beyond = max(names) + chr(ord("/") + 1)
        with answering(parent):
            for page in store.list(f"{key}/", offset=f"{key}/{min(names)}"):
                keys = [about["path"].removeprefix(f"{key}/") for about in page]
                for path in keys:
                    name, _, below = path.partition("/")
                    if below and name in found:
                        entry, _, deeper = below.partition("/")
                        found[name][entry] = bool(deeper) or found[name].get(entry, False)
                if keys and keys[-1] >= beyond:
                    break
    for folder, name in zip(folders, names, strict=True):
        yield [FolderEntry(entry, f"{folder}/{entry}", is_folder) for entry, is_folder in found[name].items()]


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The function of each item, in their order, CONNECTIONS at a time. No more results than that wait to be taken."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(CONNECTIONS, "bucket") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > CONNECTIONS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@cache
def _store(bucket: str) -> S3Store:
    from obstore.store import S3Store

    return S3Store(bucket, retry_config=RETRIES)


def located(path: Path | str) -> tuple[S3Store, str]:
    """The bucket of a path, and the key in it, which may hold any character: `?` and `#` too."""
    bucket, _, key = str(path).partition("://")[2].partition("/")
    return _store(bucket), key.strip("/")


@contextmanager
def answering(path: Path | str) -> Iterator[None]:
    """Say what the store answers in a sentence, with what can be done about it. FileNotFoundError of a single object
    stays as it is.
    """
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError, PermissionError) as error:
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            raise
        told, remedy = explained(str(error), path) or (" ".join(str(error).split())[:300], SEE_ENDPOINT)
        raise StorageError(f"{path} cannot be used: {told}. {remedy}", told, remedy) from error


SEE_CREDENTIALS = (
    "See that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are right, and that they may list, read and write there"
)
SEE_ENDPOINT = "See that AWS_ENDPOINT_URL is right, or unset for AWS itself, and that the store answers"
SEE_BUCKET = "Create the bucket, or point {setting} to another one"
SEE_KEY = "Rename or remove that object: names may not be empty, . or .., nor hold control characters"
SEE_STORE = "See that the store has room and takes writes"
CREDENTIALS = (
    "AccessDenied",
    "InvalidAccessKeyId",
    "XAdminUserNotFound",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
)
REMEDIES = dict.fromkeys(CREDENTIALS, SEE_CREDENTIALS)
REMEDIES["NoSuchBucket"] = SEE_BUCKET
"""By S3's error codes."""


def explained(text: str, path: Path | str = "") -> tuple[str, str] | None:
    """What went wrong at the path and what can be done, if an S3 client's error says so.

    The clients are delta-rs, Sail, obstore and Hadoop.
    """
    if found := re.search(r"<Code>(.*?)</Code>\s*(?:<Message>(.*?)</Message>)?", text, re.DOTALL):
        remedy = REMEDIES.get(found[1], SEE_STORE).format(setting=_setting(path))
        return f"{(found[2] or 'the store refused').rstrip('.')} ({found[1]})", remedy
    if found := re.search(r"S3Exception: (.*?) \(Service: S3, Status Code: (\d+)", text):
        return f"{found[1].rstrip('.')} (HTTP {found[2]})", (
            SEE_CREDENTIALS if "denied" in found[1].lower() else SEE_STORE
        )
    if "169.254." in text or "Unable to load credentials" in text:
        return "there are no credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if found := re.search(r'invalid path: Error parsing Path "(.*?)"', text, re.DOTALL):
        return f"the key {found[1]!r} cannot be read as a path", SEE_KEY
    if "403 Forbidden" in text:
        return "access is denied", SEE_CREDENTIALS
    if re.search(r"error sending request|[Cc]onnection refused|dns error|Unable to execute HTTP request", text):
        if fault := _tls_fault(text):
            return fault.format(server=environment().get("AWS_ENDPOINT_URL", "AWS")), _tls_remedy(fault)
        return f"{environment().get('AWS_ENDPOINT_URL', 'AWS')} does not answer", SEE_ENDPOINT
    return None


def _tls_fault(text: str) -> tls.Fault | None:
    """What the error says, or a handshake of our own where it says nothing, as Sail's do."""
    endpoint = urlsplit(environment().get("AWS_ENDPOINT_URL", ""))
    if (fault := tls.named(text)) or not endpoint.hostname:
        return fault
    if endpoint.scheme == "http":
        return tls.Fault.ENCRYPTED if tls.is_spoken(endpoint.hostname, endpoint.port or 80) else None
    return tls.found(endpoint.hostname, endpoint.port or 443, os.environ.get(CERTIFICATES))


def _tls_remedy(fault: tls.Fault) -> str:
    """What to do about it. Whoever sets SSL_CERT_FILE decides by that what the Rust clients trust."""
    name = CERTIFICATES if os.environ.get(CERTIFICATES, os.environ.get(BUNDLE)) != os.environ.get(BUNDLE) else BUNDLE
    path = os.environ.get(name)
    remedies = {
        tls.Fault.UNTRUSTED: (
            f"See that {name} ({path}) has the certificate of that authority, in PEM"
            if path
            else f"Set {name} to a file with the certificate of that authority, in PEM"
        ),
        tls.Fault.OTHER_HOST: (
            "Use a host name that it lists in AWS_ENDPOINT_URL, or give the server a certificate for this one"
        ),
        tls.Fault.ANONYMOUS: "Let the server do without: Millrace identifies itself by AWS_ACCESS_KEY_ID",
        tls.Fault.PLAIN: "Begin AWS_ENDPOINT_URL with http://, or turn TLS on at the server",
        tls.Fault.ENCRYPTED: "Begin AWS_ENDPOINT_URL with https://",
    }
    return remedies.get(fault, "Renew the certificate at the server, and see that the clocks are right")


def _setting(path: Path | str) -> str:
    """The variable that says where this path lies."""
    zone = os.environ.get("MILLRACE_LANDING", "").partition("://")[2].strip("/")
    key = str(path).partition("://")[2]
    return "MILLRACE_LANDING" if zone and f"{key}/".startswith(f"{zone}/") else "MILLRACE_LAKE"


class Lease:
    """A lock in a bucket: an object that says who holds it, renewed while it is held.

    No clocks are compared: who waits takes an object over when it has not changed for LEASE_SECONDS of the waiter's
    own. Every change is a conditional PUT, so that of two who try only one succeeds. Threads of one process wait for
    each other without asking the store.
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
        """Take what is free or has not changed from `seen` for LEASE_SECONDS; also what was found, and since when it is
        so.
        """
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
                    # taken over, as after a long sleep of this machine: the commit itself is refused when the table
                    # moved
                    return

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
