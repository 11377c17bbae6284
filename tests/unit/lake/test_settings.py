"""Settings are read from the environment, and one that cannot be is refused."""

import pytest

from lake import settings
from lake.settings import SettingError


def test_labels_in_a_bucket_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_LABELS", "s3://bucket/labels")
    with pytest.raises(SettingError, match=r"^MILLRACE_LABELS is 's3://bucket/labels'. Set it to a folder"):
        settings.labels()
