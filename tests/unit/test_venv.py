"""Building .venv says how far it is, and fails when uv fails. uv is a stand-in: the real one downloads a gigabyte."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lake import settings

UV = """#!/bin/sh
echo "Resolved 2 packages in 1ms" >&2
echo "Downloading lightgbm (3.4MiB)" >&2
while ! grep -q 'packages installed' "$PROGRESS"; do sleep 0.05; done
echo "Installed 2 packages in 3ms" >&2
echo " + lightgbm==4.6.0" >&2
exit ${CODE:-0}
"""
PYTHON = f"""#!/bin/sh
[ "$1 $2" = "-m venv" ] && exec {sys.executable} -m venv --without-pip "$3"
exec {sys.executable} "$@"
"""
"""Without pip, which costs seconds and which nobody needs where there is uv."""


def build(folder: Path, code: int = 0) -> tuple[int, str]:
    for name in ("scripts/venv.sh", "scripts/millrace", "scripts/health.py"):
        (folder / "scripts").mkdir(exist_ok=True)
        shutil.copy(settings.CHECKOUT / name, folder / name)
    (folder / "requirements.txt").write_text(
        "lightgbm==4.6.0 \\\n    --hash=sha256:0\nuv==1.0 \\\n    --hash=sha256:0\n"
    )
    (folder / "bin").mkdir(exist_ok=True)
    for name, script in (("uv", UV), ("python", PYTHON)):
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    progress = folder / "progress"
    environment = {
        **os.environ,
        "PYTHON": str(folder / "bin" / "python"),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "CODE": str(code),
    }
    environment |= {"PROGRESS": str(progress), "MILLRACE_VENV_SECONDS": "0.2"}
    with progress.open("w") as output:
        done = subprocess.run(
            ["bash", "scripts/venv.sh"], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    return done.returncode, progress.read_text()


def test_building_says_what_is_downloaded_and_how_many_packages_are_there(tmp_path: Path) -> None:
    code, message = build(tmp_path)
    assert code == 0, message
    assert "  Resolved 2 packages" in message
    assert "  Downloading lightgbm (3.4MiB)" in message
    assert " of about 2 packages installed, " in message
    assert "lightgbm==" not in message
    assert message.splitlines()[-1].startswith("Done: ")


def test_a_failure_of_uv_fails_the_build(tmp_path: Path) -> None:
    assert build(tmp_path, 2)[0] == 2
