"""What tests of loading share."""

import shutil

import pytest


@pytest.fixture
def copy(model_store, tmp_path):
    """Makes a copy of a random model's folder, to be damaged."""
    return lambda name: shutil.copytree(model_store.path(name), tmp_path / name)
