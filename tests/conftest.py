"""Tests touch no network, leave each other's processors alone, and are never judged by how long they took."""

import os
from pathlib import Path

import hypothesis
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

collect_ignore = ["data"]
"""It holds a test suite of another project, which `tests/gate/test_pytest_plugin.py` runs."""

hypothesis.settings.register_profile("nih", deadline=None)
hypothesis.settings.load_profile("nih")

SLOW = Path(__file__).with_name("slow.txt").read_text(encoding="utf-8").split()
"""Files, and tests as `file::test`, that take about half a second of a processor or more, all their parameters together. `make test-fast`
leaves them out, so that it takes less than a minute on two cores.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow tests."""
    for item in items:
        plain = item.nodeid.partition("[")[0]
        if any(plain == slow or plain.startswith((f"{slow}/", f"{slow}::")) for slow in SLOW):
            item.add_marker(pytest.mark.slow)
