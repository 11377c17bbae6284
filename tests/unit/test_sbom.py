"""The bills of materials: what an image's lock installs is in them, they keep CycloneDX's schema, and they come out the
same every time.
"""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from lake import settings

SCRIPT = settings.CHECKOUT / "scripts" / "sbom.py"
DEBIAN = "libc6\t2.36-9+deb12u10\tamd64\nbase-files\t12.4+deb12u11\tamd64\n"


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def versions(bill: str) -> dict[str, str]:
    components: list[dict[str, Any]] = json.loads(bill)["components"]
    assert len({component["name"] for component in components}) == len(components)
    return {component["name"]: component["version"] for component in components}


@pytest.mark.parametrize("image", ["features", "pipeline"])
def test_a_bill_has_what_the_lock_installs_on_linux(sbom: ModuleType, image: str) -> None:
    lock = (settings.CHECKOUT / "requirements" / f"{image}.txt").read_text()
    everywhere = dict(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==(\S+) \\$", lock, re.MULTILINE))
    elsewhere = set(re.findall(r"^([a-z0-9-]+)==.* ; sys_platform == 'win32' \\$", lock, re.MULTILINE))
    listed = versions(sbom.bill(image))
    assert everywhere.items() <= listed.items()
    assert not elsewhere & {*listed}


def test_debians_packages_are_part_of_a_bill(sbom: ModuleType) -> None:
    text = sbom.bill("engine", DEBIAN)
    assert (
        versions(text).items() >= {"libc6": "2.36-9+deb12u10", "base-files": "12.4+deb12u11", "pysail": "0.7.2"}.items()
    )
    assert '"pkg:deb/debian/libc6@2.36-9%2Bdeb12u10?arch=amd64"' in text


def test_a_list_that_dpkg_did_not_write_is_refused(sbom: ModuleType) -> None:
    with pytest.raises(sbom.SbomError, match="dpkg-query -W"):
        sbom.bill("engine", "libc6 2.36\n")


@pytest.mark.slow
def test_the_files_are_the_same_every_time_and_keep_the_schema(sbom: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "engine.dpkg").write_text(DEBIAN)
    done = subprocess.run([sys.executable, str(SCRIPT), str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.count("packages") == 3
    written = {path.name: path.read_text() for path in sorted(tmp_path.glob("*.cdx.json"))}
    assert [*written] == ["engine.cdx.json", "features.cdx.json", "pipeline.cdx.json"]
    assert written["engine.cdx.json"] == sbom.bill("engine", DEBIAN)
    for text in written.values():
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
        assert not re.search(r'"(timestamp|serialNumber)"|/work/|/tmp/', text)
