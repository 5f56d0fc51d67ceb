"""Tests touch no network, leave each other's processors alone, and are never judged by how long they took."""

import os

import hypothesis

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

hypothesis.settings.register_profile("nih", deadline=None)
hypothesis.settings.load_profile("nih")
