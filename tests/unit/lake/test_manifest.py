"""A manifest that is torn is named with its file, by whoever needs it."""

from pathlib import Path

import pytest

from lake import manifest
from lake.manifest import ManifestDamagedError
from millrace import pipeline


@pytest.mark.parametrize("content", ["", "\0\0", '{"name": "kept", "cr', "{}", "[]", '{"format": 1, "releases": [{}]}'])
def test_a_damaged_manifest_is_named_with_its_file_and_a_remedy(home: Path, content: str) -> None:
    path = manifest.folder() / "kept.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(ManifestDamagedError, match="Restore the file from a backup") as raised:
        manifest.read("kept")
    assert f"training set kept cannot be read: {path} " in str(raised.value)
    with (
        pytest.raises(ManifestDamagedError),
        pipeline.translate_errors("gold.guest_activity"),
    ):  # as a vacuum reads them
        manifest.pinned_versions("gold.guest_activity", "any")
