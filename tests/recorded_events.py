"""Read back the lineage events of a home."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from lake import settings
from lineage import naming

log = logging.getLogger(__name__)


def events(file: str = "*") -> Iterator[dict[str, Any]]:
    """The events of `<home>/lineage/<file>.<machine>.ndjson` of all machines, file by file, oldest first.

    Incomplete lines of killed processes are skipped.
    """
    for path in sorted(settings.lineage().glob(f"{file}.*ndjson")):
        with path.open() as lines:
            for number, line in enumerate(lines, 1):
                try:
                    event = json.loads(line)
                except ValueError:
                    log.warning("%s, line %d is not JSON and is skipped", path, number)
                    continue
                yield event


def last_run(output: str) -> list[dict[str, Any]]:
    """The events of the newest run that made `output`, such as `silver.transactions` or `features.customer_activity`.

    Run ids grow with time.
    """
    job_name = naming.job(output)
    runs: dict[str, list[dict[str, Any]]] = {}
    for event in events():
        job = event.get("job", {})
        if (job.get("namespace"), job.get("name")) == job_name:
            runs.setdefault(event["run"]["runId"], []).append(event)
    return runs[max(runs)] if runs else []
