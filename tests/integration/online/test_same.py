"""What holds for the online store in sqlite holds in Redis and in PostgreSQL: the same tests again."""

import pytest

from features.online.generation import OnlineBackend


@pytest.fixture(autouse=True)
def online_there(there: OnlineBackend) -> OnlineBackend:
    return there
