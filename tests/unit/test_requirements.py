"""The pinned requirements: every package has hashes, and what the GPU adds fits what is there already."""

import re
import subprocess
from pathlib import Path

import pytest

from contracts import settings

EVERYWHERE, GPU = settings.CHECKOUT / "requirements.txt", settings.CHECKOUT / "requirements-gpu.txt"


def pinned(path: Path) -> dict[str, set[str]]:
    """Package -> the versions that it has on one Python or another."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==([^ ;]+)", path.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


@pytest.mark.parametrize("path", [EVERYWHERE, GPU], ids=lambda path: path.name)
def test_every_package_has_hashes_and_comes_from_no_place_in_particular(path: Path) -> None:
    text = path.read_text()
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)
    assert all("--hash=sha256:" in block for block in blocks if block.strip())
    assert not re.search(r"://|--index|--find-links|--extra-index", text)


def test_the_gpu_changes_no_version_that_is_there_already() -> None:
    everywhere, gpu = pinned(EVERYWHERE), pinned(GPU)
    shared = {*everywhere} & {*gpu}
    assert {"pandas", "pyarrow", "numpy"} <= shared
    assert {name: gpu[name] for name in shared} == {name: everywhere[name] for name in shared}


def test_cudf_is_for_the_gpu_only() -> None:
    assert "cudf-cu13" in pinned(GPU)
    assert "cudf-cu13" not in pinned(EVERYWHERE)


def test_a_checkout_without_uv_gets_the_pinned_uv_whatever_stands_around_it(tmp_path: Path) -> None:
    """`scripts/venv.sh` cuts uv out of the file for pip; it once did so through a pipe, which broke by chance when the reader ended before the writer."""
    script = (settings.CHECKOUT / "scripts" / "venv.sh").read_text()
    [cut] = re.findall(r"^ *(awk .*) > \.venv/uv\.txt$", script, re.MULTILINE)
    many = "".join(f"after-{number}==1.0 \\\n    --hash=sha256:0\n" for number in range(20_000))
    (tmp_path / "requirements.txt").write_text(
        f"before==1.0\n    --hash=sha256:0\nuv==7.0 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n    # via -r\nuvloop==1.0\n    --hash=sha256:0\n{many}"
    )
    for _ in range(5):
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", cut], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout == "uv==7.0 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n    # via -r\n"
