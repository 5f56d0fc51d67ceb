"""Measure what a language model still finds in a long context.

The public names are loaded on first use, so that `import nih` stays free of torch, matplotlib and pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nih.version import __version__

if TYPE_CHECKING:
    from nih.report.heatmap import heatmap
    from nih.report.tables import cells
    from nih.run.evaluate import Run, evaluate

_HOME = {
    "Run": "nih.run.evaluate",
    "evaluate": "nih.run.evaluate",
    "cells": "nih.report.tables",
    "heatmap": "nih.report.heatmap",
}

__all__ = ["Run", "__version__", "cells", "evaluate", "heatmap"]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'nih' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
