"""The DAGs as Airflow sees them, imported in this process, with an Airflow home of its own."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.projects import GROCERY


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Airflow writes its configuration where it is first imported; that shall not be the caller's home."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AIRFLOW_HOME", str(tmp_path_factory.mktemp("airflow")))
        environment.delenv("MILLRACE_SCHEDULE", raising=False)
        with pytest.MonkeyPatch.context() as importing:
            importing.setenv("MILLRACE_PROJECT", str(GROCERY))  # which has DAGs of its own, too
            import dags.millrace_dag
            import dags.training_set_dag  # noqa: F401
            import grocery.dags.recommender_dag
            import grocery.dags.recommender_scores_dag  # noqa: F401
        yield


@pytest.fixture
def dag(airflow: None) -> Any:
    """The DAG."""
    from dags.millrace_dag import dag

    return dag


@pytest.fixture
def training_dag(airflow: None) -> Any:
    """The DAG that makes training sets."""
    from dags.training_set_dag import dag

    return dag


@pytest.fixture
def recommender_dag(airflow: None) -> Any:
    """The DAG that trains the recommender."""
    from grocery.dags.recommender_dag import dag

    return dag


@pytest.fixture
def scores_dag(airflow: None) -> Any:
    """The DAG that scores every customer."""
    from grocery.dags.recommender_scores_dag import dag

    return dag
