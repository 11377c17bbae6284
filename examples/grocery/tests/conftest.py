"""The shop's own tests: of its contracts, transforms and models, on a few rows and on the whole sample."""

from collections.abc import Iterator

import pytest

from contracts import project

project.load(project.DEFAULT)  # so that tests may import its modules


@pytest.fixture(scope="module", autouse=True)
def _project() -> Iterator[None]:
    """Work for the shop, whatever the project of the tests before."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(project.SETTING, str(project.DEFAULT))
        yield
