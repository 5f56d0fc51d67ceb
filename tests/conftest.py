"""Tests touch no network, leave each other's processors alone, and are never judged by how long they took."""

import os

import hypothesis
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("nih", deadline=None)
hypothesis.settings.load_profile("nih")

SLOW = ("tests/repo/test_wheel.py",)
"""Tests that take more than about two seconds, each a folder, a file, or a file and a test. `make test-fast` leaves them out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests."""
    for item in items:
        plain = item.nodeid.partition("[")[0]
        if any(plain == slow or plain.startswith((f"{slow}/", f"{slow}::")) for slow in SLOW):
            item.add_marker(pytest.mark.slow)
