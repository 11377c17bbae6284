"""The bearer token of writes over HTTP: generated once, kept in a file of the home that only its owner can read."""

from __future__ import annotations

import hmac
import os
import secrets
import uuid
from contextlib import suppress
from pathlib import Path

from contracts import settings
from features.serving.errors import UnauthorizedError, WritesDisabledError

PLACE = "feast/write_token of MILLRACE_HOME"
"""For messages, which show no path of this machine."""


def path() -> Path:
    """`$MILLRACE_HOME/feast/write_token`."""
    return settings.home() / "feast" / "write_token"


def create() -> Path:
    """Make the token where there is none; the file's path. Who comes second keeps the first one's."""
    path().parent.mkdir(parents=True, exist_ok=True)
    draft = path().with_name(f".{path().name}.{uuid.uuid4().hex}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    with suppress(FileExistsError):
        path().hardlink_to(draft)
    draft.unlink()
    return path()


def ensure_valid(authorization: bytes | None) -> None:
    """Return if an Authorization header has the token; UnauthorizedError if not.

    The file is read each time, so a new token counts at once.
    """
    scheme, _, sent = (authorization or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(sent.strip(), _read()):
        wrong = "it was missing" if authorization is None else "this one is wrong"
        remedy = f"The token is in {PLACE}."
        raise UnauthorizedError(f"Writing needs the header `Authorization: Bearer TOKEN`, and {wrong}. {remedy}")


def _read() -> bytes:
    try:
        mode, kept = path().stat().st_mode, path().read_bytes().strip()
    except OSError:
        raise WritesDisabledError(f"There is no token in {PLACE}. Restart the server: it makes one.") from None
    if mode & 0o077 or len(kept) < 16:
        raise WritesDisabledError(
            f"The token in {PLACE} is readable by other users or shorter than 16 characters, so nobody may write. "
            "Delete it and restart the server: it makes one."
        )
    return kept
