"""A query of labels that ends before its scan does leaves nothing at work that would hang or abort the process as it
ends.
"""

import os
import subprocess
import sys
from pathlib import Path

from lake import settings

SCRIPT = """
from lake import release
from features.offline.labels import LabelError
from features.training import sandbox
try:
    labels = "SELECT customer_id, event_timestamp FROM gold.customer_activity WHERE spend_7d > 'x'"
    sandbox.select(labels, release.read())
except LabelError as error:
    print(error)
"""


def test_a_process_ends_after_a_query_that_failed_in_the_middle_of_its_scan(year: Path) -> None:
    for _ in range(3):
        environment = {**os.environ, "PYTHONPATH": str(settings.CHECKOUT)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", SCRIPT],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("the labels' SQL cannot be run: Conversion Error"), done.stdout
