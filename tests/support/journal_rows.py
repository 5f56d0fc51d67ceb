"""Journal rows and small runs for tests."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nih.store.directory import RunDirectory
from nih.store.journal import Row

TASKS = [{"name": "passkey", "options": {"kind": "digits"}, "score": "contains"}]


def row(id: str = "a", **changes: Any) -> Row:
    """A row with a right answer, or what `changes` make of it."""
    plain: dict[str, Any] = {
        "id": id,
        "attempt": 1,
        "task": "passkey",
        "length": 1024,
        "depth": 50.0,
        "actual_depth": 50.4,
        "trial": 0,
        "tokens": 1000,
        "needle": "The pass key is 12345.",
        "around": "The grass is green. The pass key is 12345. The sky is blue.",
        "question": "What is the pass key?",
        "expected": ("12345",),
        "answer": " 12345.",
        "score": 1.0,
        "status": "ok",
        "error": "",
        "nll": None,
        "greedy": None,
        "prefill_tokens": 100,
        "seconds": 0.5,
        "score_name": "contains",
        "answer_prefix": "The pass key is",
    }
    if changes.get("status", "ok") != "ok":
        plain |= {"score": None, "answer": "", "error": "it failed"}
    return Row(**plain | changes)


def grid(lengths: Iterable[int], depths: Iterable[float], trials: int = 1) -> dict[str, Any]:
    """The manifest's form of a grid."""
    return {"lengths": list(lengths), "depths": list(depths), "trials": {"base": trials, "steps": []}}


def make_run(path: Path, rows: Iterable[Row], **manifest: Any) -> Path:
    """Write a run of these rows."""
    facts = {
        "model": "echo",
        "tasks": TASKS,
        "training_length": None,
        "grid": grid([1024], [50.0]),
    } | manifest
    with RunDirectory.open(path, {"model": facts["model"], "grid": facts["grid"]}) as run:
        run.write_manifest(**facts)
        for each in rows:
            run.append(each)
    return path
