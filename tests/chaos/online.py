"""What is served: one request for all entities and features through the Feast SDK, once or in a loop."""

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
"""(feature, values in the order of PAIRS) for each feature."""


def features(store: Any) -> list[str]:
    """Every feature of the gold views, as `view:feature`."""
    return [
        f"{view.name}:{field.name}"
        for view in sorted(store.list_batch_feature_views(), key=lambda view: view.name)
        if view.name in VIEWS
        for field in view.features
    ]


def request(store: Any, names: list[str]) -> Answer | None:
    """The answer to one request; None while nothing is online."""
    from features.online.generation import OnlineStoreEmptyError

    rows = [{"customer_id": customer, "product_id": product} for customer, product in PAIRS]
    try:
        response = store.get_online_features(features=names, entity_rows=rows).to_dict()
    except OnlineStoreEmptyError:
        return None
    return tuple(
        sorted(
            (name, tuple(plain(value) for value in response[name]))
            for name in (full_name.partition(":")[2] for full_name in names)
        )
    )


def plain(value: Any) -> Any:
    """A value in a form that compares equal across stores: floats rounded, instants in whole seconds."""
    if isinstance(value, float | Decimal):
        return round(float(value), 9)
    return int(value.timestamp()) if isinstance(value, datetime) else value


def current_answer(home: Any) -> Answer | None:
    """What a home serves now, requested in this process; None when nothing is online."""
    from features import registry

    with home.here():
        if not registry.path().exists():
            return None
        store = registry.open_store()
        return request(store, names) if (names := features(store)) else None


def poll(home: Any, pipe: Any) -> None:
    """The reader's process: send requests until the pipe says None.

    Each answer must be one of the allowed ones. After the last of them came, none of the others may come again.
    """
    from features import registry

    os.setsid()
    os.environ.update(home.environment)
    store = registry.open_store()
    names = features(store)
    allowed, moved, requests, problems = pipe.recv(), False, 0, []
    pipe.send(True)
    while allowed is not None:
        try:
            answer = request(store, names)
        except Exception as error:
            problems.append(f"a reader got {type(error).__name__}: {str(error)[:300]}")
            answer = allowed[-1]
        requests += 1
        if answer not in allowed:
            problems.append(f"a reader got an answer that is no release's: {str(answer)[:300]}")
        elif moved and answer != allowed[-1]:
            problems.append("a reader got the former release after the new one")
        moved = answer == allowed[-1]
        if pipe.poll(PAUSE_SECONDS):
            allowed, moved = pipe.recv(), False
            pipe.send((requests, problems[:3]))
            problems = []


class OnlineReader:
    """A process that sends requests all the time."""

    def __init__(self, server: Any, home: Any, allowed: list[Answer | None]) -> None:
        self.pipe, theirs = server.Pipe()
        self.process = server.Process(target=poll, args=(home, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.requests, self.problems = 0, list[str]()
        self.pipe.send(allowed)
        self.pipe.recv()

    def allow(self, answers: list[Answer | None] | None) -> list[str]:
        """Allow these answers from now on, the last one for good; None stops. Returns what was wrong until now."""
        try:
            self.pipe.send(answers)
            self.requests, problems = self.pipe.recv()
        except (EOFError, BrokenPipeError):
            return ["the reader died"]
        return list(problems)

    def end(self) -> list[str]:
        """Stop the process. Returns what was wrong since the last call."""
        problems = self.allow(None)
        self.process.join(10)
        if self.process.is_alive():
            self.process.kill()
        return problems
