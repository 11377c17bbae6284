"""What is served: one answer to one question about all entities and all features, asked through the Feast SDK, once or all the time."""

from __future__ import annotations

import os
from datetime import datetime
from decimal import Decimal
from typing import Any

from tests.chaos.schedule import CUSTOMERS, PRODUCTS

PAIRS = tuple((customer, product) for customer in CUSTOMERS for product in PRODUCTS)
VIEWS = ("customer_activity", "product_popularity", "customer_product", "customer_profile")
PAUSE_SECONDS = 0.02
Answer = tuple[tuple[str, tuple[Any, ...]], ...]
"""For each feature its values, in the order of PAIRS."""


def features(store: Any) -> list[str]:
    """All of all views, as Feast names them."""
    return [
        f"{view.name}:{field.name}"
        for view in sorted(store.list_batch_feature_views(), key=lambda view: view.name)
        if view.name in VIEWS
        for field in view.features
    ]


def ask(store: Any, names: list[str]) -> Answer | None:
    """One request; None while nothing is online."""
    from features.generation import OnlineStoreEmptyError

    rows = [{"customer_id": customer, "product_id": product} for customer, product in PAIRS]
    try:
        found = store.get_online_features(features=names, entity_rows=rows).to_dict()
    except OnlineStoreEmptyError:
        return None
    return tuple(sorted((name, tuple(plain(value) for value in found[name])) for name in (one.partition(":")[2] for one in names)))


def plain(value: Any) -> Any:
    """A value that two stores write alike."""
    if isinstance(value, float | Decimal):
        return round(float(value), 9)
    return int(value.timestamp()) if isinstance(value, datetime) else value


def served(home: Any) -> Answer | None:
    """What a home serves, asked in this process; None when nothing."""
    from features import registry

    with home.here():
        if not registry.path().exists():
            return None
        store = registry.open_store()
        return ask(store, names) if (names := features(store)) else None


def keep_asking(home: Any, pipe: Any) -> None:
    """In a process of its own, until told to stop: each answer has to be one of those that are allowed, and once the last of them came, none before it comes again."""
    from features import registry

    os.setsid()
    os.environ.update(home.environment)
    store = registry.open_store()
    names = features(store)
    allowed, moved, asked, problems = pipe.recv(), False, 0, []
    pipe.send(True)
    while allowed is not None:
        try:
            answer = ask(store, names)
        except Exception as error:
            problems.append(f"a reader got {type(error).__name__}: {str(error)[:300]}")
            answer = allowed[-1]
        asked += 1
        if answer not in allowed:
            problems.append(f"a reader got an answer that is no release's: {str(answer)[:300]}")
        elif moved and answer != allowed[-1]:
            problems.append("a reader got the former release after the new one")
        moved = answer == allowed[-1]
        if pipe.poll(PAUSE_SECONDS):
            allowed, moved = pipe.recv(), False
            pipe.send((asked, problems[:3]))
            problems = []


class Reader:
    """A process that asks all the time."""

    def __init__(self, server: Any, home: Any, allowed: list[Answer | None]) -> None:
        self.pipe, theirs = server.Pipe()
        self.process = server.Process(target=keep_asking, args=(home, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.asked, self.problems = 0, list[str]()
        self.pipe.send(allowed)
        self.pipe.recv()

    def allow(self, answers: list[Answer | None] | None) -> list[str]:
        """From here on only these, the last of which may come to stay; None ends it. What was wrong so far."""
        try:
            self.pipe.send(answers)
            self.asked, problems = self.pipe.recv()
        except (EOFError, BrokenPipeError):
            return ["the reader died"]
        return list(problems)

    def end(self) -> list[str]:
        """Stop it."""
        problems = self.allow(None)
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
        return problems
