"""What the errors of S3's clients mean, in words."""

from __future__ import annotations

import pytest

from lake import bucket


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "XAdminUserNotFound"])
def test_keys_that_the_store_does_not_know(code: str) -> None:
    """The last one is Versity's word for an access key that is not there."""
    text = f"Client error with status 403: <Error><Code>{code}</Code><Message>No such key.</Message></Error>"
    assert bucket.explain(text) == (f"No such key ({code})", bucket.CHECK_CREDENTIALS)
