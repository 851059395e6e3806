"""All sites of all families take half an hour: of most families `make test-every` tries them, and no other tier."""

import pytest
from fixtures.families import THROUGHOUT


def pytest_collection_modifyitems(items):
    for item in items:
        family = getattr(item, "callspec", None) and item.callspec.params.get("family")
        if family and "every_site" in item.name and family not in THROUGHOUT:
            item.add_marker(pytest.mark.every)
