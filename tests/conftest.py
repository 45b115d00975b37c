"""The order of the tests."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The demo's last: gradio and uploaded pictures leave a process of 3 GB, which others would fork."""
    items.sort(key=lambda item: item.nodeid.startswith("tests/demo/"))
