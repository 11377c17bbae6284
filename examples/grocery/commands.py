"""The shop's own commands of `millrace`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grocery.recommender import commands as recommender


def add(commands: Any, adding: Callable[..., Any]) -> None:
    """`adding(commands, name, function, help)` adds a command and returns its parser; `function(options, console)`
    carries it out.
    """
    recommender.add(
        adding(commands, "recommender", None, "train a model on the features, say how good it is, and recommend"),
        adding,
    )
