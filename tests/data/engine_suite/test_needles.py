"""The engine finds as many needles as it did when `baseline/` was measured. The variable MODEL names what is tested.

Nothing is asserted here: the fixture fails the test if a rule of the gate fails.
"""

import os
from pathlib import Path

from nih.pytest_plugin import NihGate


def test_the_engine_finds_what_it_found(nih_gate: NihGate) -> None:
    nih_gate(Path(__file__).with_name("baseline"), model=os.environ.get("MODEL", "rwkv"))
