"""What tests of edges share."""

import pytest
from fixtures.taken_apart import Runs

import vlmtrace as vt
from vlmtrace.models import bundled_models


@pytest.fixture(scope="session")
def bundled():
    """Loads a bundled model once, and a pair that it answers."""
    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = vt.load_model(name, check=False), vt.load_pairs("rendered_states", n=1)
        return loaded[name]

    return load


@pytest.fixture
def runs_of(model_store, random_pairs, bundled):
    """Makes `Runs` of a random or a bundled model and a corruption."""

    def make(name, corruption="image"):
        model, pairs = bundled(name) if name in bundled_models() else (model_store.shared(name), random_pairs)
        return Runs(model, pairs, corruption)

    return make
