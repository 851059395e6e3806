"""The sheet of attacks: each test is one kind of attack on something that README or documentation promise."""

import pytest
from fixtures.app_server import running_app
from fixtures.stored_secrets import SECRETS


@pytest.fixture(scope="session")
def app(tmp_path_factory):
    """The app in a home of its own, with secrets in its environment."""
    with running_app(tmp_path_factory.mktemp("home") / "here", **SECRETS) as running:
        yield running
