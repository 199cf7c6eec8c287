"""What tests that run whole commands share."""

import pytest


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the processes of a module keep compiled programs for each other."""
    return tmp_path_factory.mktemp("compiled")
