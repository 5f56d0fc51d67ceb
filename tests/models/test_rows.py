"""Rows decoded together say what each of them says alone, whatever company they are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nih import evaluate
from nih.errors import NotFinite, OutOfMemory
from nih.models import mamba, mamba2, rwkv
from nih.models._recurrent import Options, RecurrentSession
from nih.models._rows import SIZES
from nih.store.run import read
from tests.support import recurrent
from tests.support.recurrent import marks
from tests.support.rwkv_files import write_pth

ROWS = SIZES[-1]
NAMES = ["rwkv", "mamba"]
MATRIX = ["v5.2", "v6", "v7", "mamba2"]
"""Random checkpoints of the networks whose state is a matrix per head."""
GRID: dict[str, Any] = {"lengths": "512,1k", "depths": "0,50,100", "trials": 4}


def opened(name: str, dtype: Any = "float32") -> RecurrentSession:
    adapter: Any = rwkv if name == "rwkv" else mamba
    session: RecurrentSession = adapter.open_model(name, name, Options(device="cpu", dtype=dtype)).session()
    return session


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_rows_say_what_each_says_alone(name: str, dtype: str) -> None:
    session = opened(name, dtype)
    asked = marks(session, ROWS)
    rooms = [1 + i % 24 for i in range(ROWS)]
    stops: list[tuple[str, ...]] = [(), (" ",), ("a", "\n")] * ROWS
    together = session.generate_rows(asked, rooms, stops[:ROWS])
    for mark, room, stop, made in zip(asked, rooms, stops, together, strict=False):
        session.rewind(mark)
        assert session.generate(room, stop) == made


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_its_company(name: str) -> None:
    """In any place, and with any neighbours."""
    session = opened(name)
    asked = marks(session, 12, seed=1)
    alone = [session.generate_rows([mark], [12], [()])[0] for mark in asked]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(12)
        made = session.generate_rows([asked[i] for i in order], [12] * 12, [()] * 12)
        assert made == [alone[i] for i in order]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MATRIX)
def test_rows_of_matrices_are_alone_too(name: str, dtype: str, tmp_path: Path) -> None:
    """Said as alone, in any place, and with any neighbours."""
    if name == "mamba2":
        source, adapter = recurrent.folder(name, tmp_path), mamba2.open_model
    else:
        source, adapter = write_pth(tmp_path / "model.pth", name), rwkv.open_model
    options = Options(device="cpu", dtype=dtype, tokenizer="byte")  # type: ignore[arg-type]  # a str of the three
    session = adapter(str(source), name, options).session()
    asked = marks(session, 7)
    together = session.generate_rows(asked, [9] * 7, [()] * 7)
    order = [3, 0, 6, 1]
    assert session.generate_rows([asked[i] for i in order], [9] * 4, [()] * 4) == [together[i] for i in order]
    for mark, made in zip(asked, together, strict=True):
        session.rewind(mark)
        assert session.generate(9, ()) == made


@pytest.mark.parametrize("name", NAMES)
def test_rows_leave_marks_and_state_as_they_were(name: str) -> None:
    session = opened(name)
    asked = marks(session, 5)
    session.rewind(asked[2])
    session.extend([np.arange(40, 60, dtype=np.int32)])
    before, position = session.logits(), session.position
    kept = [[tensor.clone() for layer in mark.state for tensor in layer] for mark in asked]
    session.generate_rows(asked, [9] * 5, [()] * 5)
    assert session.position == position and np.array_equal(session.logits(), before)
    for mark, tensors in zip(asked, kept, strict=True):
        now = [tensor for layer in mark.state for tensor in layer]
        assert all(torch.equal(a, b) for a, b in zip(now, tensors, strict=True))


def test_a_near_tie_is_decoded_alone() -> None:
    session = opened("rwkv")
    session.tie = float("inf")
    asked = marks(session, 4)
    made = session.generate_rows(asked, [6] * 4, [()] * 4)
    assert session.together.alone == 4
    session.tie = 0.0
    assert session.generate_rows(asked, [6] * 4, [()] * 4) == made


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_without_a_largest_logit_is_no_answer(value: float) -> None:
    session = opened("rwkv")
    session.tie = 0.0
    asked = marks(session, 4)
    whole = session.generate_rows(asked[:3], [6] * 3, [()] * 3)
    broken = asked[3]._replace(logits=torch.full_like(asked[3].logits, value))
    with pytest.raises(NotFinite, match="logits are not finite"):
        session.generate_rows([*asked[:3], broken], [6] * 4, [()] * 4)
    assert session.generate_rows(asked[:3], [6] * 3, [()] * 3) == whole


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_rows_answers_as_a_run_without(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sample ids, planned tokens, answers and verification are those of a walk that answers one by one."""
    together = evaluate(model=name, out=tmp_path / "rows", quiet=True, device="cpu", **GRID)
    with monkeypatch.context() as patch:
        patch.setattr("nih.inference.asker.Asker.rows", None)
        alone = evaluate(model=name, out=tmp_path / "alone", quiet=True, device="cpu", **GRID)
    first, second = read(together.path), read(alone.path)
    assert {r.id: r.answer for r in first.rows} == {r.id: r.answer for r in second.rows}
    for key in ("planned_tokens", "naive_tokens", "settings_hash", "prefill"):
        assert first.manifest.values[key] == second.manifest.values[key]
    assert first.manifest.values["verification"]["state"] == "passed"


def test_where_rows_find_no_memory_samples_are_answered_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_many(self: RecurrentSession, *_: Any) -> Any:
        self.reset()
        raise OutOfMemory("no room for so many rows")

    known = evaluate(model="rwkv", out=tmp_path / "rows", quiet=True, device="cpu", **GRID)
    monkeypatch.setattr(RecurrentSession, "generate_rows", too_many)
    run = evaluate(model="rwkv", out=tmp_path / "alone", quiet=True, device="cpu", **GRID)
    assert run.exit_state == "done"
    assert {r.id: r.answer for r in read(run.path).rows} == {r.id: r.answer for r in read(known.path).rows}
