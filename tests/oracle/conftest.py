"""What the oracles share."""

import pytest
from helpers.exact import POLICIES, Oracle, oracle_of


@pytest.fixture(params=POLICIES)
def oracle(request: pytest.FixtureRequest) -> Oracle:
    return oracle_of(request.param)
