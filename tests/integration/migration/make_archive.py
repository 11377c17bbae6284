"""Make `state_4023ddf.tar.xz`: what the code of that commit left in its home, for the rehearsal of a migration.

git archive 4023ddf | tar -x -C OLD, then .venv/bin/python tests/integration/migration/make_archive.py OLD
"""

import io
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ARCHIVE = Path(__file__).with_name("state_4023ddf.tar.xz")
PARTS = ("landing", "lake", "feast")
"""Of the home. Lineage, audits and logs name this machine's folders, and nothing reads them back."""
LABELS = """
SELECT customer_id, TIMESTAMPTZ '2017-03-02 12:00:00+00' AS event_timestamp FROM (VALUES (1), (2)) t(customer_id)
""".strip()
STEPS = f"""
import os
from pathlib import Path
from tests.carrying import FIRST, land
from tests.landing import Shop
from millrace import pipeline
from features import registry, training
from features.offline.saved_datasets import LakeStorage

home = Path(os.environ["MILLRACE_HOME"])
land(Shop.open(home / "landing"))
pipeline.run_all(*FIRST, "old")
pipeline.serve()
labels = {LABELS!r}
training.create(labels, "customer_value_v1", "old")
store = registry.open_store()
service = store.get_feature_service("customer_value_v1")
rows = store.get_historical_features(labels, service)
store.create_saved_dataset(rows, "kept", LakeStorage("kept"), feature_service=service)
"""


def main(checkout: str) -> None:
    with tempfile.TemporaryDirectory() as home:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("MILLRACE_", "AWS_"))}
        environment |= {"MILLRACE_HOME": home, "PYTHONPATH": checkout}
        subprocess.run([sys.executable, "-W", "ignore", "-c", STEPS], cwd=checkout, env=environment, check=True)
        ARCHIVE.write_bytes(lzma.compress(_packed(Path(home)), preset=9 | lzma.PRESET_EXTREME))
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size:,} bytes")


def _packed(home: Path) -> bytes:
    """Without owners and in the order of names; times stay, because the pointer's is when features were published."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(path for part in PARTS for path in (home / part).rglob("*")):
            entry = archive.gettarinfo(path, str(path.relative_to(home)))
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            if path.is_file():
                with path.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)
    return buffer.getvalue()


if __name__ == "__main__":
    main(sys.argv[1])
