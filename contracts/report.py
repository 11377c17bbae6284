"""The report of one table in a run: row account, checks, version. Reports, XComs, asset events, commit metadata and
lineage use it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from contracts.model import Severity

PUBLISHED = "published"
UNCHANGED = "unchanged"


class AccountError(RuntimeError):
    """Rows were lost or invented: rows in is not published + quarantined + duplicates."""


@dataclass(frozen=True)
class RowAccount:
    """What became of the rows of a run."""

    rows_in: int
    published: int
    quarantined: int
    duplicates: int

    def verify(self, table: str) -> None:
        """Raise AccountError unless rows in = published + quarantined + duplicates."""
        out = self.published + self.quarantined + self.duplicates
        if out != self.rows_in:
            raise AccountError(
                f"{table}: {self.rows_in:,} rows in, but {self.published:,} to publish + {self.quarantined:,}"
                f" quarantined + {self.duplicates:,} duplicates = {out:,}. Nothing was published. This is a defect in"
                " the table's transform: please report it"
            )


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. `failed` is the number of rows; None for a check of the whole table."""

    check: str
    column: str | None
    severity: Severity
    success: bool
    reason: str
    failed: int | None = None


@dataclass(frozen=True)
class TableReport:
    """One table in one run.

    `version` is the Delta version with the result, `quarantine_version` that of `quarantine.<name>` with the rejected
    rows. `seconds` has the duration of stage, audit and publish. `inputs` maps each input table to its version.
    """

    table: str
    status: str
    version: int
    account: RowAccount
    seconds: dict[str, float] = field(default_factory=dict)
    checks: tuple[CheckResult, ...] = ()
    inputs: dict[str, int] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    quarantine_version: int | None = None
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    total_rows: int | None = None
    total_bytes: int | None = None

    @property
    def warnings(self) -> tuple[CheckResult, ...]:
        """Failed checks that did not stop the run."""
        return tuple(check for check in self.checks if not check.success)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON: tuples become lists."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> TableReport:
        """The inverse of `to_dict`."""
        checks = tuple(CheckResult(**{**check, "severity": Severity(check["severity"])}) for check in plain["checks"])
        return cls(
            **{**plain, "account": RowAccount(**plain["account"]), "checks": checks, "files": tuple(plain["files"])}
        )


@dataclass(frozen=True)
class Pulled:
    """What was landed from a table's database: the file, None where there was nothing new, and its rows."""

    table: str
    file: str | None
    rows: int
