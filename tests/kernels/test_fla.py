"""`NIH_KERNELS=fla`: how the op is said in flash-linear-attention's words, and that what is wrong there is caught and told."""

from __future__ import annotations

import json
import math
import re
import sys
import types
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nih import evaluate
from nih.doctor import doctor
from nih.errors import KernelError
from nih.kernels import backend, cuda_loader, fla
from tests.support.fake_fla import FAULTS, FUNCTIONS, served
from tests.support.kernel_forms import MATRIX, Inputs, distance, draw_matrix
from tests.support.rwkv_files import write_pth

READINGS = {"chunk_rwkv7": "rwkv7", "chunk_rwkv6": "rwkv6", "chunk_simple_gla": "mamba2"}


def reading(
    name: str, steps: int = 150, size: int = 8, batch: int = 2, groups: int = 0, seed: int = 0
) -> Inputs:
    """Draw a call of the op that a function of flash-linear-attention computes."""
    inputs = draw_matrix(batch, steps, 2, size, size, groups=groups, seed=seed)
    if name != "chunk_rwkv7":
        del inputs["a"], inputs["b"]
    if name == "chunk_rwkv6":
        inputs["u"] = torch.randn(2, size, generator=torch.Generator().manual_seed(seed))
    if name == "chunk_simple_gla":
        inputs["decay"] = inputs["decay"][..., :1]
    return inputs


def run(inputs: Inputs) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        y, state = MATRIX.run(**inputs)
    return y, state


# Right kernels


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("seed", range(4))
def test_each_family_goes_to_its_function(name: str, seed: int) -> None:
    """Whole or ragged rows, shared heads, with and without a state: results are the float64 truth's."""
    batch, steps = 2, (64, 100, 128, 191)[seed]
    inputs = reading(name, steps, batch=batch, groups=1 if seed % 2 else 0, seed=seed)
    if seed >= 2:
        inputs["state"] = torch.randn(batch, 2, 8, 8)
        inputs["lengths"] = torch.tensor([steps, seed])
    before = {key: value.clone() for key, value in inputs.items()}
    with served() as called:
        y, state = run(inputs)
    true_y, true_state = MATRIX.reference(**inputs)
    assert set(called) == {name}
    assert distance(y, true_y) < 2e-6
    assert distance(state, true_state) < 2e-6
    assert state.is_contiguous() and state.dtype == torch.float32
    assert all(torch.equal(inputs[key], value) for key, value in before.items()), "states are functional"


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("decay", [0.0, -80.0, -math.inf])
def test_decays_that_forget_all_or_nothing(name: str, decay: float) -> None:
    """flash-linear-attention gets finite decays only."""
    inputs = reading(name)
    inputs["decay"] = inputs["decay"].clone()
    inputs["decay"][:, 3::7, :, 0] = decay
    with served():
        for got, truth in zip(run(inputs), MATRIX.reference(**inputs), strict=True):
            assert distance(got, truth) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_halves_pass_their_rounding(name: str, dtype: torch.dtype) -> None:
    inputs = {key: value if key == "u" else value.to(dtype) for key, value in reading(name, 256).items()}
    inputs["decay"] = inputs["decay"].float()
    with served() as called:
        y, _ = run(inputs)
        assert y.dtype == dtype
        [(key, said)] = fla.told().items()
    assert called and key == f"{name}, {str(dtype)[6:]}"
    assert said.startswith("verified on the first 256 tokens")


def test_mamba_2_is_computed_in_the_type_of_the_model() -> None:
    """Its values come in float32 because the time steps do."""
    inputs = reading("chunk_simple_gla")
    inputs |= {key: inputs[key].bfloat16() for key in "rk"}
    with served():
        y, _ = run(inputs)
        assert list(fla.told()) == ["chunk_simple_gla, bfloat16"]
    assert y.dtype == torch.float32


def test_other_readings_and_short_calls_are_computed_by_our_own_form() -> None:
    bonus, gated, short = reading("chunk_rwkv7"), reading("chunk_rwkv6"), reading("chunk_rwkv7", 63)
    bonus["u"] = torch.randn(2, 8)
    del gated["u"]
    empty = reading("chunk_rwkv7", 0)
    with served() as called:
        found = [run(inputs) for inputs in (bonus, gated, short, empty)]
        assert (called, fla.told()) == ([], {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "choose", backend.beside_fla)
        for inputs, results in zip((bonus, gated, short, empty), found, strict=True):
            assert all(torch.equal(*pair) for pair in zip(results, run(inputs), strict=True))


def test_a_call_is_cut_where_32_bits_would_not_count_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor holds rows x heads x keys numbers per token; no call of flash-linear-attention exceeds the limit."""
    inputs = reading("chunk_rwkv7", 300)
    with served() as called:
        whole, count = run(inputs), len(called)
        monkeypatch.setattr(fla, "_MOST", 2 * 2 * 8 * 100)
        del called[:]
        cut = run(inputs)
    assert (count, len(called)) == (4, 5), "the first chunk is verified once; 300 tokens take 5 calls of 64"
    for one, other in zip(whole, cut, strict=True):
        assert distance(one, other) < 1e-6


@given(steps=st.integers(64, 200), name=st.sampled_from(sorted(FUNCTIONS)), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_a_cut_changes_nothing_but_rounding(steps: int, name: str, seed: int) -> None:
    inputs = reading(name, steps, batch=1, seed=seed)
    with served():
        y, end = run(inputs)
        first, between = run(MATRIX.part(inputs, 0, steps // 2))
        rest, last = run(MATRIX.part(inputs, steps // 2, None, state=between))
    assert distance(torch.cat((first, rest), 1), y) < 2e-6
    assert distance(last, end) < 2e-6


# Wrong ones


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("steps", [64, 150])
def test_a_wrong_function_ends_the_run_in_a_sentence(name: str, fault: str, steps: int) -> None:
    with served(fault), pytest.raises(KernelError) as caught:
        run(reading(name, steps))
    said = str(caught.value)
    assert "\n" not in said and not said.endswith(".")
    assert said.startswith(f"`{name}` of flash-linear-attention 0.6.0 ")
    assert said.endswith("; set `NIH_KERNELS=auto`, which reads with the kernels of nih")


@pytest.mark.parametrize(
    "fault", ["forgets_the_start", "drops_the_tail", "fills_the_tail", "turns_the_state"]
)
def test_halves_hide_no_fault(fault: str) -> None:
    """Whole chunks from an empty state, where the faults of the past do not show but for the cut."""
    inputs = {key: value.bfloat16() for key, value in reading("chunk_rwkv7", 1024).items()}
    with served(fault), pytest.raises(KernelError, match=r"is wrong on the first 1024 tokens: "):
        run(inputs)


def test_each_loaded_model_is_verified_again() -> None:
    inputs = reading("chunk_rwkv6")
    with served() as called:
        counts = []
        for begins in (False, False, True):
            if begins:
                fla.begin()
            del called[:]
            run(inputs)
            counts.append(len(called))
    assert counts == [4, 1, 4], "once whole, and in two pieces"


# What the user reads


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setenv(backend.VARIABLE, "fla")
    for cache in (backend._choose, fla.missing):
        cache.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    for cache in (backend._choose, fla.missing):
        cache.cache_clear()


def lacking(package: str) -> str:
    raise PackageNotFoundError(package)


@pytest.mark.parametrize(
    ("installed", "why"),
    [
        (lacking, "flash-linear-attention is not installed; run `pip install 'flash-linear-attention[cuda]>=0.6'`"),
        (lambda package: "0.5.9", "flash-linear-attention 0.5.9 is older than 0.6; run `pip install"),
        (lambda package: "0.6.0", "flash-linear-attention 0.6.0 cannot be imported (ModuleNotFoundError); run `pip install"),
    ],
)  # fmt: skip
def test_a_package_that_cannot_be_used_is_told(installed: Any, why: str, forced: pytest.MonkeyPatch) -> None:
    forced.setattr(fla, "version", installed)
    forced.setitem(sys.modules, "fla.ops", None)
    with pytest.raises(
        KernelError, match=re.escape(f"`NIH_KERNELS=fla` forces kernels that cannot be used: {why}")
    ):
        backend.choose("cuda")
    assert fla.missing() in doctor()["kernels.forms.fla"]
    assert doctor()["kernels.devices.cpu.error"].endswith(fla.missing())


def test_it_serves_gpus_only(forced: pytest.MonkeyPatch) -> None:
    forced.setattr(fla, "missing", lambda: "")
    with pytest.raises(
        KernelError, match=r"cannot read tensors on `cpu`; run on `--device cuda`, or set `NIH_KERNELS=auto`"
    ):
        backend.choose("cpu")


def test_what_serves_beside_it_is_told(forced: pytest.MonkeyPatch) -> None:
    forced.setattr(fla, "version", lambda package: "0.6.1")
    forced.setitem(sys.modules, "fla.ops", types.ModuleType("fla.ops"))
    forced.setattr(cuda_loader, "missing", lambda: "")
    forced.setattr(cuda_loader, "describe", lambda: "compiled")
    form, why = backend.choose("cuda")
    assert form == "fla"
    assert (
        why
        == "flash-linear-attention 0.6.1 for the calls of `matrix_state` of at least 64 tokens, else cuda (compiled)"
    )


@pytest.mark.parametrize("fault", [None, "forgets_the_start"])
def test_run_json_holds_what_was_found(fault: str | None, tmp_path: Path) -> None:
    path = write_pth(tmp_path / "rwkv7.pth", "v7")
    asked: dict[str, Any] = {
        "model": str(path), "task": "passkey", "lengths": "256", "depths": "50", "trials": 1, "out": tmp_path / "run",
        "tokenizer": "byte",
    }  # fmt: skip
    with served(fault) as called:
        if fault is None:
            evaluate(**asked)
        else:
            with pytest.raises(KernelError, match="is wrong on the first"):
                evaluate(**asked)
    assert called
    written = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert written["identity"]["kernels"]["form"] == "fla"
    [report] = written["kernels"]
    said = report["chunk_rwkv7, float32"]
    assert said.startswith(
        "verified on the first" if fault is None else "`chunk_rwkv7` of flash-linear-attention 0.6.0 is wrong"
    )
    assert written["exit_state"] == ("done" if fault is None else "failed")
