"""`make sbom`: a CycloneDX bill of materials for each image: the Python packages of its lock, and its Debian packages
if they are listed.

    python scripts/sbom.py FOLDER

writes `FOLDER/<image>.cdx.json`. If `FOLDER/<image>.dpkg` lists the image's Debian packages, they are included:

    docker run --rm --entrypoint dpkg-query IMAGE -W -f='${Package}\\t${Version}\\t${Architecture}\\n' >
    FOLDER/<image>.dpkg

The same locks and lists give the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

CHECKOUT = Path(__file__).resolve().parent.parent
IMAGES = ("engine", "features", "pipeline")
SCHEMA = "1.6"
IMAGE = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.2",
    "python_version": "3.11",
    "sys_platform": "linux",
}
"""Values of the lock's markers in an image of Debian 12. The architecture is this machine's: images are built for the
machine that builds them.
"""


class SbomError(ValueError):
    """A list of Debian packages that cannot be read, or a bill that violates CycloneDX's schema."""


def main(folder: Path) -> None:
    """Write one bill for each image."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        debian = folder / f"{image}.dpkg"
        path = folder / f"{image}.cdx.json"
        path.write_text(bill(image, debian.read_text() if debian.exists() else ""))
        print(f"{path}: {len(json.loads(path.read_text())['components'])} packages")


def bill(image: str, debian: str = "") -> str:
    """The bill of an image as JSON. `debian` has a line per package: name, version and architecture, tab-separated."""
    debs = [deb(line) for line in debian.splitlines()]
    lock = (CHECKOUT / "requirements" / f"{image}.txt").read_text()
    command = [
        sys.executable,
        "-m",
        "cyclonedx_py",
        "requirements",
        "--no-validate",
        "--output-reproducible",
        "--spec-version",
        SCHEMA,
        "-",
    ]
    result = subprocess.run(command, input=for_image(lock), capture_output=True, text=True, check=True)
    content: dict[str, Any] = json.loads(result.stdout)
    version = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    name = f"millrace-{image}"
    content["metadata"]["component"] = {"type": "container", "bom-ref": name, "name": name, "version": version}
    content["components"] += debs
    content["dependencies"] = [
        *content["dependencies"],
        {"ref": name, "dependsOn": sorted(component["bom-ref"] for component in content["components"])},
        *({"ref": component["bom-ref"]} for component in debs),
    ]
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    if error := JsonStrictValidator(SchemaVersion.from_version(SCHEMA)).validate_str(text):
        raise SbomError(
            f"the bill of {name} does not keep the schema of CycloneDX {SCHEMA}: {error}. Is cyclonedx-bom the version"
            " that requirements.txt pins?"
        )
    return text


def for_image(lock: str) -> str:
    """`name==version` of each package that the image installs, without those for other systems or Python versions.

    Hashes stay in the lock, which has them for every wheel.
    """
    requirements = (Requirement(line.removesuffix(" \\")) for line in lock.splitlines() if line[:1].isalnum())
    return "".join(
        f"{requirement.name}{requirement.specifier}\n" for requirement in requirements if is_installed(requirement)
    )


def is_installed(requirement: Requirement) -> bool:
    """Whether the image has it."""
    return requirement.marker is None or requirement.marker.evaluate(dict(IMAGE))


def deb(line: str) -> dict[str, str]:
    """A Debian package as a component."""
    fields = line.split("\t")
    if len(fields) != 3 or not all(fields):
        raise SbomError(
            f"{line!r} is no line of a .dpkg file. Write it with: dpkg-query -W"
            " -f='${Package}\\t${Version}\\t${Architecture}\\n'"
        )
    name, version, architecture = fields
    purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
