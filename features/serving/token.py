"""The bearer token for writes over HTTP, in a file: generated in the home, or named by
`MILLRACE_FEATURES_TOKEN_FILE`.
"""

from __future__ import annotations

import hmac
import os
import secrets
import uuid
from contextlib import suppress
from pathlib import Path

from features.serving.errors import UnauthorizedError, WritesDisabledError
from lake import secret_files, settings

SETTING = "MILLRACE_FEATURES_TOKEN_FILE"
SHORTEST = 16


def path() -> Path:
    """The file that `MILLRACE_FEATURES_TOKEN_FILE` names, else `$MILLRACE_HOME/feast/write_token`."""
    setting = os.environ.get(SETTING)
    return Path(setting) if setting else settings.home() / "feast" / "write_token"


def _described() -> str:
    """The file's name for messages, without a path of this machine."""
    return f"the file that {SETTING} names" if os.environ.get(SETTING) else "feast/write_token of MILLRACE_HOME"


def create() -> Path:
    """Create the token if there is none, and return its path; of two concurrent calls, the first wins. A file that the
    setting names is never created.
    """
    if os.environ.get(SETTING):
        return path()
    path().parent.mkdir(parents=True, exist_ok=True)
    draft = path().with_name(f".{path().name}.{uuid.uuid4().hex}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
    with suppress(FileExistsError):
        path().hardlink_to(draft)
    draft.unlink()
    return path()


def ensure_valid(authorization: bytes | None) -> None:
    """Raise UnauthorizedError unless an Authorization header has the token.

    The file is read each time, so a new token takes effect at once.
    """
    scheme, _, sent = (authorization or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(sent.strip(), _read()):
        wrong = "it was missing" if authorization is None else "this one is wrong"
        remedy = f"The token is in {_described()}."
        raise UnauthorizedError(f"Writing needs the header `Authorization: Bearer TOKEN`, and {wrong}. {remedy}")


def ensure_usable() -> None:
    """Raise WritesDisabledError unless the file holds a usable token."""
    _read()


def _read() -> bytes:
    setting = os.environ.get(SETTING)
    try:
        with path().open("rb") as file:
            exposed, kept = secret_files.is_exposed(file.fileno(), 0o077), file.read(secret_files.LARGEST).strip()
    except OSError:
        remedy = "Write one into it." if setting else "Restart the server: it makes one."
        raise WritesDisabledError(f"There is no token in {_described()}. {remedy}") from None
    if exposed or len(kept) < SHORTEST:
        remedy = (
            f"Give it mode 0600 and {SHORTEST} characters or more."
            if setting
            else "Delete it and restart the server: it makes one."
        )
        raise WritesDisabledError(
            f"The token in {_described()} is readable by other users or shorter than {SHORTEST} characters, so nobody"
            f" may write. {remedy}"
        )
    return kept
