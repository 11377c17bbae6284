"""Hide passwords in values that are printed."""

import re

USER = re.compile(r"(?s)(:/*).*@(?!sha256:)")
"""Up to the last `@`, since a password that is not encoded may contain one, or a slash. An image's digest is none."""
QUERY = re.compile(r"(?s)(://[^?]*\?).*")


def mask_url(text: str) -> str:
    """A URL, or a misspelled one, without its user, password and options; any other text as it is."""
    return QUERY.sub(r"\1***", USER.sub(r"\1***@", text))
