"""`make fuzz`: mutations of everything that nih reads. Ends with 1 if one of them is neither read nor refused in a sentence."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
from pathlib import Path

from tests.support.fuzz import campaign


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=3600.0)
    asked = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), asked.mutations, asked.seed, asked.seconds)
    for name, tried in found.tried.items():
        print(f"{name:24} {tried:6} tried, {found.accepted[name]:6} read")
    for fault in sorted(set(found.faults)):
        print("FAULT", fault)
    print(f"{sum(found.tried.values())} mutations, {len(found.faults)} faults, seed {asked.seed}")
    return bool(found.faults)


if __name__ == "__main__":
    sys.exit(main())
