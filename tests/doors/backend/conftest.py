"""Each test of the backend begins with nothing traced, and needs no gradients."""

import pytest


@pytest.fixture(autouse=True)
def fresh(fresh_dynamo):
    pass
