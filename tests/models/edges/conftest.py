"""What tests of edges share."""

import pytest
from fixtures.taken_apart import Runs


@pytest.fixture
def runs_of(model_store, random_pairs):
    """Makes `Runs` of a random model and a corruption."""
    return lambda name, corruption="image": Runs(model_store.shared(name), random_pairs, corruption)
