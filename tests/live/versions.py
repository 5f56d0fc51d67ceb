"""Print the releases that a run of the tests stands for: `python -m tests.live.versions`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "pandas", "matplotlib", "ray")


def line() -> str:
    """Return Python's and the packages' releases in one line."""
    told = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            told.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            told.append(f"no {package}")
    return ", ".join(told)


if __name__ == "__main__":
    print(f"== {line()}", flush=True)
