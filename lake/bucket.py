"""S3 buckets for lake and landing zone: access, error messages with remedies, and a lock of conditional PUTs."""

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
from lake.masking import mask_url

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")
R = TypeVar("R")
SCHEMES = ("s3", "s3a")
NAME = re.compile(r"[A-Za-z0-9._-]+")
"""A bucket's name: no user or password before it, and no port behind."""
BUNDLE, CERTIFICATES = "AWS_CA_BUNDLE", "SSL_CERT_FILE"
LEASE_SECONDS = 30.0
"""A lease that is not renewed for this long belongs to a dead process."""
POLL_SECONDS = 0.5
READ_AHEAD = 1 << 18
"""Bytes to fetch for a small read: page headers and footers are close together."""
MOST_AHEAD = 8 << 20
"""Most bytes to fetch for a read that continues the last one."""
SMALL = 4 << 20
"""Objects of up to this many bytes are fetched whole, in one request."""
CONNECTIONS = 8
"""Concurrent requests when many objects are read or written."""
RETRIES: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}
"""For requests that the store throttles or does not answer."""


class StorageError(RuntimeError):
    """The object store cannot be used as configured. The message has both the `reason` and the `remedy`."""

    def __init__(self, message: str, reason: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.reason, self.remedy = reason or message, remedy


class ChangedError(StorageError):
    """A file was replaced or removed while it was read; the next run reads it as it is then."""


class LockedError(TimeoutError):
    """Another process held the lock until the timeout."""


def to_path(root: str) -> Path:
    """`s3://bucket/key` as a `UPath`, which has the methods of `Path`."""
    scheme, _, rest = root.partition("://")
    if scheme not in SCHEMES:
        raise StorageError(
            f"{mask_url(root)} is neither a folder nor s3://bucket/path, and nothing else can hold a lake or a landing"
            " zone"
        )
    bucket, _, key = rest.partition("/")
    if not bucket or not key.strip("/"):
        raise StorageError(f"{mask_url(root)} does not name a folder in a bucket. Use s3://bucket/path")
    if not NAME.fullmatch(bucket):
        raise StorageError(
            f"{mask_url(root)} has more than a bucket's name before the path. Use s3://bucket/path, and put the key"
            " into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if bundle := os.environ.get(BUNDLE):
        _ensure_bundle(bundle)
    secret_files.load()  # credentials, for clients that read them from the environment
    set_environment()
    from upath import UPath

    _register()
    return cast("Path", UPath(f"s3://{bucket}/{key.strip('/')}"))


def set_environment() -> None:
    """Set the variables of `environment`, unless they are set, for all S3 clients of this process."""
    for name, value in environment().items():
        os.environ.setdefault(name, value)


def environment() -> dict[str, str]:
    """Variables with endpoint, region and certificates, under each of the names that engines and delta-rs read."""
    endpoint = (
        os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT")
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    variables = {"AWS_REGION": region}
    if endpoint:
        variables |= {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ENDPOINT": endpoint,
            "AWS_ALLOW_HTTP": "true" if endpoint.startswith("http://") else "false",
        }
    if (bundle := os.environ.get(BUNDLE)) and not (endpoint or "").startswith("http://"):
        # delta-rs, obstore and Sail read only this one, and AWS's own clients the other
        variables[CERTIFICATES] = os.environ.get(CERTIFICATES) or bundle
    return variables


@cache
def _ensure_bundle(path: str) -> None:
    """StorageError for an unusable bundle, with which clients would only report an untrusted server."""
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
    """Open `s3://` paths with the Rust client that delta-rs and Sail use."""
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
    """An object as a file with a position per thread.

    DuckDB's threads share one file handle: each seeks, releases the GIL, and reads. With a shared position a thread
    would read from the position of another: compressed pages fail to decompress, uncompressed ones give wrong rows.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self._store, self._key = store_and_key(path if "://" in path else f"s3://{path}")
        self.size = self._find_size()
        self._positions: dict[int, int] = {}
        self._ahead: dict[int, tuple[int, bytes]] = {}

    def _find_size(self) -> int:
        with translate_errors(self.path):
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
        reader, start = self._reader(), self.tell()
        end = self.size if length is None or length < 0 else min(start + length, self.size)
        if end <= start:
            return b""
        first, ahead = self._ahead.get(reader, (0, b""))
        if not first <= start <= end <= first + len(ahead):
            most = self._most_ahead(start == first + len(ahead))
            first, ahead = start, self._fetch(start, min(max(end, start + most), self.size))
            self._ahead[reader] = (first, ahead) if len(ahead) <= most else (first + len(ahead), b"")
            self._positions[reader] = end
            return ahead[: end - start]
        self._positions[reader] = end
        return ahead[start - first : end - first]

    def _reader(self) -> int:
        """The owner of a position: this thread."""
        return threading.get_ident()

    def _most_ahead(self, sequential: bool) -> int:  # noqa: ARG002 (for subclasses)
        """Bytes to fetch for a small read; `sequential` when it continues the last one."""
        return READ_AHEAD

    def _fetch(self, start: int, end: int) -> bytes:
        with translate_errors(self.path):
            return bytes(self._store.get_range(self._key, start=start, end=end))

    def readall(self) -> bytes:
        """To the end."""
        return self.read()

    def readinto(self, buffer: Any) -> int:
        """Fill what fits."""
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class Fingerprint(NamedTuple):
    """Identifies one version of an object."""

    size: int
    tag: Any
    """Its ETag, or the time of its last change where the store has no ETags."""

    @classmethod
    def of(cls, meta: Any) -> Fingerprint:
        """The fingerprint of an object in a response."""
        return cls(meta["size"], meta["e_tag"] or meta["last_modified"])


class PinnedReader(ObjectReader):
    """One version of an object as a file; ChangedError once the object has another version.

    All threads share one position: Arrow reads a CSV file on threads of its own, one at a time.
    """

    def __init__(self, path: str, fingerprint: Fingerprint) -> None:
        self.fingerprint = fingerprint
        self._next = READ_AHEAD
        super().__init__(path)

    def _find_size(self) -> int:
        return self.fingerprint.size

    def _reader(self) -> int:
        return 0

    def _most_ahead(self, sequential: bool) -> int:
        self._next = min(2 * self._next, MOST_AHEAD) if sequential else READ_AHEAD
        return self._next

    def _fetch(self, start: int, end: int) -> bytes:
        return fetch(self.path, self.fingerprint, start, end)


def fetch(path: Path | str, fingerprint: Fingerprint, start: int = 0, end: int | None = None) -> bytes:
    """The bytes [start, end) of one version of the object; ChangedError once it has another version."""
    store, key = store_and_key(path)
    stop = fingerprint.size if end is None else end
    if stop <= start:
        return b""
    options: Any = {"range": (start, stop)}
    if isinstance(fingerprint.tag, str):
        options["if_match"] = fingerprint.tag
    with _detect_changes(path), translate_errors(path):
        response = store.get(key, options=options)
        if Fingerprint.of(response.meta) != fingerprint:  # from a store that ignores conditions
            raise _changed(path)
        return bytes(response.bytes())


@contextmanager
def _detect_changes(path: Path | str) -> Iterator[None]:
    """Raise ChangedError where the object was replaced or removed."""
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
    reason = f"{path} {'is gone' if gone else 'was replaced'} since this run listed it"
    remedy = "Wait until uploads have ended"
    return ChangedError(f"{reason}. {remedy}, then run again", reason, remedy)


def digest(path: Path | str) -> tuple[str, ObjectSource]:
    """SHA-256 of the object's content, in hex, and the version that has it, with its content cached if it is small."""
    store, key = store_and_key(path)
    with _detect_changes(path), translate_errors(path):
        response = store.get(key)
        source = ObjectSource(path, Fingerprint.of(response.meta))
        if source.is_small:
            source.content = bytes(response.bytes())
            return hashlib.sha256(source.content).hexdigest(), source
        sha256 = hashlib.sha256()
        for chunk in response.stream(min_chunk_size=1 << 20):
            sha256.update(chunk)
    return sha256.hexdigest(), source


class ObjectSource:
    """One version of an object, which can be read several times.

    A small one is cached from its first read until `release`; a large one is never in memory as a whole.
    """

    def __init__(self, path: Path | str, fingerprint: Fingerprint | None = None) -> None:
        self.path = str(path)
        self.fingerprint = fingerprint or self._head()
        self.content: bytes | None = None

    def _head(self) -> Fingerprint:
        store, key = store_and_key(self.path)
        with _detect_changes(self.path), translate_errors(self.path):
            return Fingerprint.of(store.head(key))

    @property
    def is_small(self) -> bool:
        """Whether it is fetched whole."""
        return self.fingerprint.size <= SMALL

    def fetch(self) -> ObjectSource:
        """This source, with its content cached if it is small."""
        if self.is_small and self.content is None:
            self.content = fetch(self.path, self.fingerprint)
        return self

    @property
    def cached_bytes(self) -> int:
        """Bytes of its content in memory."""
        return len(self.content or b"")

    def release(self) -> None:
        """Drop the cached content."""
        self.content = None

    def open(self, mode: str = "rb") -> BinaryIO:  # noqa: ARG002 (as `Path.open`)
        """The content as a file."""
        self.fetch()
        if self.content is not None:
            return io.BytesIO(self.content)
        return cast("BinaryIO", PinnedReader(self.path, self.fingerprint))

    def for_arrow(self) -> Any:
        """The input for Arrow's readers."""
        import pyarrow as pa

        self.fetch()
        return pa.BufferReader(self.content) if self.content is not None else PinnedReader(self.path, self.fingerprint)

    def ensure_unchanged(self) -> None:
        """Do nothing: each read has checked that already."""


class FolderEntry(NamedTuple):
    """A file or a folder in a bucket, with the methods of `os.DirEntry`."""

    name: str
    path: str
    folder: bool

    def is_dir(self) -> bool:
        """Whether it is a folder: a prefix of keys."""
        return self.folder

    def is_file(self) -> bool:
        """Whether it is an object."""
        return not self.folder

    def is_symlink(self) -> bool:
        """Never: buckets have no links."""
        return False


def exists(folder: Path | str) -> bool:
    """Whether the folder has an object, be it its own marker."""
    store, key = store_and_key(folder)
    with translate_errors(folder):
        return any(store.list(f"{key}/", chunk_size=1))


def entries(folder: Path | str) -> list[FolderEntry]:
    """The files and folders in a folder. A key that ends in `/` is an empty folder."""
    store, key = store_and_key(folder)
    with translate_errors(folder):
        listing = store.list_with_delimiter(f"{key}/")
    paths = [(path, True) for path in listing["common_prefixes"]]
    paths += [(meta["path"], False) for meta in listing["objects"] if meta["path"] != key]  # the folder's own marker
    names = ((path.removeprefix(f"{key}/"), is_folder) for path, is_folder in paths)
    return [FolderEntry(name, f"{folder}/{name}", is_folder) for name, is_folder in names]


def entries_of(folders: Sequence[str]) -> Iterator[list[FolderEntry]]:
    """`entries` of each of these folders of one parent, from one listing from the first of them to the last."""
    parents = {folder.rpartition("/")[0] for folder in folders}
    names = [folder.rpartition("/")[2] for folder in folders]
    contents: dict[str, dict[str, bool]] = {name: {} for name in names}
    for parent in parents:
        store, key = store_and_key(parent)
        beyond = max(names) + chr(ord("/") + 1)
        with translate_errors(parent):
            for page in store.list(f"{key}/", offset=f"{key}/{min(names)}"):
                keys = [meta["path"].removeprefix(f"{key}/") for meta in page]
                for path in keys:
                    name, _, below = path.partition("/")
                    if below and name in contents:
                        entry, _, deeper = below.partition("/")
                        contents[name][entry] = bool(deeper) or contents[name].get(entry, False)
                if keys and keys[-1] >= beyond:
                    break
    for folder, name in zip(folders, names, strict=True):
        yield [FolderEntry(entry, f"{folder}/{entry}", is_folder) for entry, is_folder in contents[name].items()]


def marks(folder: Path | str) -> dict[str, tuple[Any, ...]]:
    """Size and tag of each object in the folders of a folder, by `<folder>/<file>`, from one listing."""
    store, key = store_and_key(folder)
    found: dict[str, tuple[Any, ...]] = {}
    with translate_errors(folder):
        for page in store.list(f"{key}/"):
            for meta in page:
                name = meta["path"].removeprefix(f"{key}/")
                if name.count("/") == 1 and not name.endswith("/"):
                    found[name] = meta["size"], str(meta["e_tag"] or ""), str(meta["last_modified"])
    return found


def map_concurrently(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`map`, in order, with CONNECTIONS calls at a time and at most as many finished results waiting."""
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


def store_and_key(path: Path | str) -> tuple[S3Store, str]:
    """The bucket and the key of a path. A key may have any character, `?` and `#` too."""
    bucket, _, key = str(path).partition("://")[2].partition("/")
    return _store(bucket), key.strip("/")


@contextmanager
def translate_errors(path: Path | str) -> Iterator[None]:
    """Raise StorageError, with a remedy, for errors of the store. FileNotFoundError of an object passes."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError, PermissionError) as error:
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            raise
        reason, remedy = explain(str(error), path) or (" ".join(str(error).split())[:300], CHECK_ENDPOINT)
        raise StorageError(f"{path} cannot be used: {reason}. {remedy}", reason, remedy) from error


CHECK_CREDENTIALS = (
    "Check that AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are right, and that they may list, read and write there"
)
CHECK_ENDPOINT = "Check that AWS_ENDPOINT_URL is right, or unset for AWS itself, and that the store answers"
CREATE_BUCKET = "Create the bucket, or point {setting} to another one"
RENAME_OBJECT = "Rename or remove that object: names may not be empty, . or .., nor hold control characters"
CHECK_STORE = "Check that the store has room and accepts writes"
CREDENTIALS = (
    "AccessDenied",
    "InvalidAccessKeyId",
    "XAdminUserNotFound",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "InvalidToken",
)
REMEDIES = dict.fromkeys(CREDENTIALS, CHECK_CREDENTIALS)
REMEDIES["NoSuchBucket"] = CREATE_BUCKET
"""By S3's error codes."""


def explain(text: str, path: Path | str = "") -> tuple[str, str] | None:
    """Reason and remedy of an error message of delta-rs, Sail, obstore or Hadoop; None if it is not one of S3."""
    if match := re.search(r"<Code>(.*?)</Code>\s*(?:<Message>(.*?)</Message>)?", text, re.DOTALL):
        remedy = REMEDIES.get(match[1], CHECK_STORE).format(setting=_setting(path))
        return f"{(match[2] or 'the store refused').rstrip('.')} ({match[1]})", remedy
    if match := re.search(r"S3Exception: (.*?) \(Service: S3, Status Code: (\d+)", text):
        remedy = CHECK_CREDENTIALS if "denied" in match[1].lower() else CHECK_STORE
        return f"{match[1].rstrip('.')} (HTTP {match[2]})", remedy
    if "169.254." in text or "Unable to load credentials" in text:
        return "there are no credentials", "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if match := re.search(r'invalid path: Error parsing Path "(.*?)"', text, re.DOTALL):
        return f"the key {match[1]!r} cannot be read as a path", RENAME_OBJECT
    if "403 Forbidden" in text:
        return "access is denied", CHECK_CREDENTIALS
    if re.search(r"error sending request|[Cc]onnection refused|dns error|Unable to execute HTTP request", text):
        if fault := _tls_fault(text):
            return fault.format(server=environment().get("AWS_ENDPOINT_URL", "AWS")), _tls_remedy(fault)
        return f"{environment().get('AWS_ENDPOINT_URL', 'AWS')} does not answer", CHECK_ENDPOINT
    return None


def _tls_fault(text: str) -> tls.Fault | None:
    """The TLS fault in the error message, or of a handshake of our own: Sail's messages have none."""
    endpoint = urlsplit(environment().get("AWS_ENDPOINT_URL", ""))
    if (fault := tls.classify(text)) or not endpoint.hostname:
        return fault
    if endpoint.scheme == "http":
        return tls.Fault.ENCRYPTED if tls.speaks_tls(endpoint.hostname, endpoint.port or 80) else None
    return tls.probe(endpoint.hostname, endpoint.port or 443, os.environ.get(CERTIFICATES))


def _tls_remedy(fault: tls.Fault) -> str:
    """What to do about a TLS fault. SSL_CERT_FILE, where it is set, decides what the Rust clients trust."""
    name = CERTIFICATES if os.environ.get(CERTIFICATES, os.environ.get(BUNDLE)) != os.environ.get(BUNDLE) else BUNDLE
    path = os.environ.get(name)
    remedies = {
        tls.Fault.UNTRUSTED: (
            f"Check that {name} ({path}) has the certificate of that authority, in PEM"
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
    return remedies.get(fault, "Renew the certificate at the server, and check that the clocks are right")


def _setting(path: Path | str) -> str:
    """The variable that sets this path."""
    zone = os.environ.get("MILLRACE_LANDING", "").partition("://")[2].strip("/")
    key = str(path).partition("://")[2]
    return "MILLRACE_LANDING" if zone and f"{key}/".startswith(f"{zone}/") else "MILLRACE_LAKE"


class Lease:
    """A lock in a bucket: an object with the name of its holder, which the holder keeps renewing.

    Clocks are not compared: a waiter takes over an object that has not changed for LEASE_SECONDS of its own clock. Each
    change is a conditional PUT, so only one of two waiters succeeds. Threads of one process wait for each other
    without asking the store.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._store, self._key = store_and_key(path)
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
        with suppress(Exception):  # a lease that cannot be returned expires
            self._put(b"", self._tag)
        self._inside.release()

    def _acquire(self) -> None:
        seen: Any = None
        since = time.monotonic()
        while True:
            with translate_errors(self._path):
                taken, seen, since = self._try(seen, since)
            if taken:
                return
            if time.monotonic() > self._deadline:
                raise LockedError(str(self._path))
            time.sleep(POLL_SECONDS)

    def _try(self, seen: Any, since: float) -> tuple[bool, Any, float]:
        """Take a lease that is free, or whose tag is still `seen` after LEASE_SECONDS.

        Returns whether it was taken, its current tag, and since when it has had that tag.
        """
        current = self._get()
        if current is None:
            return self._put(self._holder, None), None, since
        content, tag = current
        if tag != seen:
            seen, since = tag, time.monotonic()
        free = not content or time.monotonic() - since > LEASE_SECONDS
        return free and self._put(self._holder, tag), seen, since

    def _renew(self) -> None:
        count = 0
        while not self._ended.wait(LEASE_SECONDS / 3):
            count += 1
            with suppress(Exception):  # the store may be back before the lease expires
                if not self._put(self._holder + b" %d" % count, self._tag):
                    # taken over, as after this machine slept: the commit is refused if the table has a newer version
                    return

    def _get(self) -> tuple[bytes, Any] | None:
        try:
            response = self._store.get(self._key)
            return bytes(response.bytes()), response.meta["e_tag"]
        except FileNotFoundError:
            return None

    def _put(self, content: bytes, tag: Any) -> bool:
        """Create the object, or replace the one with this tag; False when another process did so first."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            self._tag = self._store.put(self._key, content, mode={"e_tag": tag} if tag else "create")["e_tag"]
        except (AlreadyExistsError, PreconditionError):
            current = self._get()
            if current is None or current[0] != content or not content:
                return False
            self._tag = current[1]  # our own write: its response was lost, and the client's retry conflicted with it
        return True


_holders: dict[str, threading.Lock] = {}
"""Path -> lock among the threads of this process, which wait without asking the store."""
