"""The same delivery for other producers of OpenLineage events, the Airflow provider above all.

    AIRFLOW__OPENLINEAGE__TRANSPORT='{"type": "lineage.transport.FileOrServer", "file": "airflow"}'

The client's own file transport writes an event of more than 8 KiB in several pieces, which another process can tear
apart, and its HTTP transport retries for half a minute.
"""

from __future__ import annotations

from typing import Any

import attr
from openlineage.client.transport.transport import Config, Transport

from lineage.emit import FILE, emit


@attr.define
class FileConfig(Config):
    """`file` is the stem of the file in `<home>/lineage`."""

    file: str = FILE

    @classmethod
    def from_dict(cls, params: dict[str, Any]) -> FileConfig:
        """Anything but `file` is left aside: the client adds settings of its own."""
        return cls(str(params.get("file") or FILE))


class FileOrServer(Transport):
    """Hands each event to `lineage.emit`."""

    kind = "millrace"
    config_class = FileConfig

    def __init__(self, config: FileConfig) -> None:
        self.config = config

    def emit(self, event: Any) -> None:
        """Deliver one event."""
        emit(event, self.config.file)
