"""Decoding by captured graphs says what decoding step by step says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nih.errors import ModelError, OutOfMemory
from nih.models import mamba, mamba2, rwkv
from nih.models._graphs import Graphs, Rows
from nih.models._graphs import capture as on_a_gpu
from nih.models._recurrent import Options, RecurrentSession
from tests.support import recurrent
from tests.support.graphs import called_again
from tests.support.recurrent import marks
from tests.support.rwkv_files import write_pth

NAMES = ["rwkv", "mamba", "mamba2", "v7"]


def opened(name: str, folder: Path, device: str = "cpu") -> RecurrentSession:
    if name == "v7":
        source, adapter = str(write_pth(folder / "model.pth", name)), rwkv
    else:
        known: dict[str, Any] = {"rwkv": rwkv, "mamba": mamba, "mamba2": mamba2}
        source, adapter = str(recurrent.folder(name, folder)), known[name]
    session: RecurrentSession = adapter.open_model(
        source, name, Options(device=device, dtype="float32", tokenizer="byte")
    ).session()
    return session


def asked(session: RecurrentSession, of: list[Any]) -> Any:
    return session.generate_rows(of, [1 + i % 9 for i in range(len(of))], [()] * len(of))


@pytest.mark.parametrize("name", NAMES)
def test_graphs_say_what_steps_say(name: str, tmp_path: Path) -> None:
    """Batch after batch, of several numbers of rows, also where a batch comes back."""
    session = opened(name, tmp_path)
    batches = [marks(session, count, seed) for seed, count in enumerate((5, 1, 16, 3))]
    wanted = [asked(session, batch) for batch in batches]
    kept = [tensor.clone() for batch in batches for mark in batch for layer in mark.state for tensor in layer]
    session.capture_rows(called_again)
    for _ in range(2):
        assert [asked(session, batch) for batch in batches] == wanted
    now = [tensor for batch in batches for mark in batch for layer in mark.state for tensor in layer]
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True)), "marks stay as they were"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_captures_them(name: str, tmp_path: Path) -> None:
    session = opened(name, tmp_path, "cuda")
    batches = [marks(session, count, seed) for seed, count in enumerate((5, 1, 16, 3))]
    wanted = [asked(session, batch) for batch in batches]
    session.capture_rows(on_a_gpu)
    assert [asked(session, batch) for batch in batches] == wanted


def step(ids: Tensor, state: Rows) -> tuple[Tensor, Rows]:
    """Add the token to the state, and say the sum."""
    ((total,),) = state
    after = total + ids.float()
    return after.clone(), ((after,),)


def rows(*values: float) -> Rows:
    return ((torch.tensor(values)[:, None],),)


def test_a_number_of_rows_is_captured_once() -> None:
    captured: list[int] = []

    def counting(work: Callable[[], Tensor]) -> Any:
        found = called_again(work)
        captured.append(len(found[1]))
        return found

    graphs = Graphs(step, counting)
    for count in (2, 3, 2, 3, 2):
        state = rows(*range(count))
        for token in (5, 7):
            logits, state = graphs(torch.full((count, 1), token), state)
        assert logits[:, 0].tolist() == [12.0 + i for i in range(count)]
    assert captured == [2, 3]


def test_what_cannot_be_captured_is_said() -> None:
    def refusing(work: Callable[[], Tensor]) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(ModelError, match=r"not permitted when stream is capturing.*graphs=true"):
        Graphs(step, refusing)(torch.zeros(1, 1), rows(0))


def test_memory_of_graphs_is_given_back_where_there_is_too_little(tmp_path: Path) -> None:
    """The batch fails as one without graphs does, and the next one is captured anew."""
    session, full = opened("rwkv", tmp_path), [True]
    batch = marks(session, 3, 0)
    wanted = asked(session, batch)

    def tight(work: Callable[[], Tensor]) -> Any:
        replay, found = called_again(work)

        def checked() -> None:
            if full:
                full.clear()
                raise torch.OutOfMemoryError("CUDA out of memory")
            replay()

        return checked, found

    session.capture_rows(tight)
    with pytest.raises(OutOfMemory):
        asked(session, batch)
    session.reset()
    assert asked(session, batch) == wanted


@pytest.mark.parametrize("name", ["rwkv", "mamba"])
def test_graphs_need_a_gpu(name: str) -> None:
    adapter: Any = {"rwkv": rwkv, "mamba": mamba}[name]
    with pytest.raises(ModelError, match=r"`graphs=true` captures CUDA graphs.*runs on `cpu`; leave it out"):
        adapter.open_model(name, name, Options(device="cpu", graphs=True))
