"""Data Docs: keep each validation result, and render the newest ones as pages."""

from __future__ import annotations

from pathlib import Path

from contracts import settings
from expectations.audit import Audit, to_json


def folder() -> Path:
    """Where results and pages lie."""
    return settings.home() / "data_docs"


def keep(verdict: Audit, run_id: str) -> Path:
    """Write one table's result aside for the pages; nothing is rendered yet."""
    target = folder() / "results" / _safe(run_id) / f"{verdict.table.qualified}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(to_json(verdict, run_id))
    return target


def _safe(run_id: str) -> str:
    return "".join(one if one.isalnum() or one in "-_." else "-" for one in run_id)
