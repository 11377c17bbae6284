"""Read back what was recorded: for the demo's summary and for tests. A lineage server is the place for real
questions.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from lake import settings
from lineage import naming

log = logging.getLogger(__name__)


def events(file: str = "*") -> Iterator[dict[str, Any]]:
    """Every event of `<home>/lineage/<file>.<machine>.ndjson`, of all machines: file by file, in the order of writing.

    A line that a killed process left torn is passed over.
    """
    for path in sorted(settings.lineage().glob(f"{file}.*ndjson")):
        with path.open() as lines:
            for number, line in enumerate(lines, 1):
                try:
                    event = json.loads(line)
                except ValueError:
                    log.warning("%s, line %d is not JSON and is passed over", path, number)
                    continue
                yield event


def last_run(made: str) -> list[dict[str, Any]]:
    """The events of the newest run of `silver.transactions`, `features.customer_activity` and the like; run ids grow
    with time.
    """
    wanted = naming.job(made)
    runs: dict[str, list[dict[str, Any]]] = {}
    for event in events():
        job = event.get("job", {})
        if (job.get("namespace"), job.get("name")) == wanted:
            runs.setdefault(event["run"]["runId"], []).append(event)
    return runs[max(runs)] if runs else []
