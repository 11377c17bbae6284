"""The project's own commands of `millrace`."""

from __future__ import annotations

import typer

from grocery.fraud import commands as fraud
from grocery.recommender import commands as recommender


def add(app: typer.Typer) -> None:
    """Add the commands to Millrace's command line, a Typer app."""
    app.add_typer(recommender.app, name="recommender")
    app.add_typer(fraud.app, name="fraud")
