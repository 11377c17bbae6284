"""Deliver the events of other OpenLineage producers, such as the Airflow provider, with `lineage.emit`.

    AIRFLOW__OPENLINEAGE__TRANSPORT='{"type": "lineage.transport.FileOrServer", "file": "airflow"}'

The client's file transport writes events of more than 8 KiB in pieces, between which other processes can write, and its
HTTP transport retries for half a minute.
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
        """The config from `file` alone: the client adds parameters of its own, which are ignored."""
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
