"""The contract suite on the local engine, with and without bubblewrap."""

import pytest

from tests.contract.suite import *  # noqa: F403 - the tests themselves


@pytest.fixture(params=["isolated", pytest.param("plain", marks=pytest.mark.slow)])
def isolation(request: pytest.FixtureRequest) -> str:
    """As for the other tests of the local engine; the suite without bubblewrap is one for `make test-all`."""
    return str(request.param)
