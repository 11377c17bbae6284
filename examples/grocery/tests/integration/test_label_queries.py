"""A query of labels that ends before its scan does leaves nothing at work that would hang or abort the process as it
ends.
"""

import os
import subprocess
import sys
from pathlib import Path

from lake import settings
from tests import patience

SCRIPT = f"""
import os, signal, sys
from lake import release
from features.offline.labels import LabelError
from features.training import sandbox
labels = "SELECT customer_id, event_timestamp FROM gold.customer_activity WHERE spend_7d > 'x'"
for _ in range(3):
    if child := os.fork():
        if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            sys.exit(f"the process ended with {{code}}")
        continue
    signal.alarm({patience.SECONDS:.0f})
    try:
        sandbox.select(labels, release.read())
    except LabelError as error:
        print(error)
    sys.exit()
"""


def test_a_process_ends_after_a_query_that_failed_in_the_middle_of_its_scan(year: Path) -> None:
    """Each process is a fork, made before DuckDB has any thread: the imports are paid once."""
    environment = {**os.environ, "PYTHONPATH": str(settings.CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=4 * patience.SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    assert done.stdout.count("the labels' SQL cannot be run: Conversion Error") == 3, done.stdout
