"""The AVX-512 path on any processor with AVX2: its own source, with each AVX-512 instruction as two of AVX2 (tests/support/avx512_shim.h).

What the compiler makes of the real instructions is tested where a processor has them: there every test of the kernels runs this path.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nih.kernels import cpu_loader
from nih.kernels.causal_attention import causal_attention, causal_attention_reference
from tests.support.kernel_forms import MATRIX, OPS, Inputs, distance, draw_matrix, meaning, served_by

SUPPORT = Path(__file__).parents[1] / "support"
SOURCES = Path(cpu_loader.__file__).parent
COMPILER = shutil.which("g++")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

pytestmark = pytest.mark.skipif(
    COMPILER is None or bool(cpu_loader.missing()) or cpu_loader.simd() < 1,
    reason="there is no g++, or no processor with AVX2 and a built library",
)


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """A library of the kernels' source whose AVX-512 path is emulated; what it yields makes `use` choose it."""
    folder = tmp_path_factory.mktemp("avx512")
    source = (SOURCES / "cpu.cpp").read_text()
    instructions = ",avx512f,avx512bw,avx512dq,avx512vl"
    assert source.count(instructions) == 1, "the compiler must not emit what this processor lacks"
    (folder / "cpu.cpp").write_text(source.replace(instructions, ""))
    command = [
        str(COMPILER), "-std=c++17", "-O1", "-fopenmp", "-ffp-contract=off", "-shared", "-fPIC",
        "-include", str(SUPPORT / "avx512_shim.h"), f"-I{SOURCES}", str(folder / "cpu.cpp"), "-o", str(folder / "cpu.so"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    library = ctypes.CDLL(str(folder / "cpu.so"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_loader, "library", lambda: library)
        patch.setattr(cpu_loader, "simd", lambda: cpu_loader.PATHS.index(_asked()))
        yield patch


def _asked() -> str:
    return cpu_loader._forced.get() or "avx512"


def both(op: Any, inputs: Inputs) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The results of AVX-512 and of AVX2."""
    found = []
    with served_by("cpu"), torch.no_grad():
        for path in ("avx512", "avx2"):
            with cpu_loader.using(path):
                found.append(op.run(**inputs))
    return found


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("channels", [5, 16, 33, 64])
def test_results_are_the_float64_truth(name: str, channels: int, emulated: pytest.MonkeyPatch) -> None:
    op = OPS[name]
    inputs = op.make(2, 130, channels)
    (y, state), _ = both(op, inputs)
    true_y, true_state = op.reference(**inputs)
    assert distance(y, true_y) < 2e-5
    assert distance(meaning(op, state), meaning(op, true_state)) < 2e-5


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (128, 128), (33, 200), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reading", ["delta", "plain", "single"])
def test_the_matrix_state_is_that_of_avx2_to_the_bit(
    size: tuple[int, int], dtype: torch.dtype, reading: str, emulated: pytest.MonkeyPatch
) -> None:
    """Each value of a state is computed by the same operations in the same order, whatever the width of the vectors.

    With a bonus it is not: what the present token reads is added up across the lanes.
    """
    inputs = draw_matrix(1, 71, 2, *size)
    if reading != "delta":
        del inputs["a"], inputs["b"]
    if reading == "single":
        inputs["decay"] = inputs["decay"][..., :1]
    inputs = {key: value.to(dtype) for key, value in inputs.items()}
    wide, narrow = both(MATRIX, inputs)
    for one, other in zip(wide, narrow, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (128, 128), (33, 200), (1, 1)], ids=str)
def test_a_bonus_changes_the_state_by_nothing(size: tuple[int, int], emulated: pytest.MonkeyPatch) -> None:
    inputs = draw_matrix(1, 71, 2, *size) | {"a": None, "b": None, "u": torch.randn(2, size[1])}
    (y, state), (_, narrow) = both(MATRIX, inputs)
    assert torch.equal(state, narrow)
    assert distance(y, MATRIX.reference(**inputs)[0]) < 2e-6


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cut_anywhere_changes_no_bit(data: Any, emulated: pytest.MonkeyPatch) -> None:
    steps = data.draw(st.integers(1, 60), "steps")
    values, keys = data.draw(st.sampled_from([(7, 6), (64, 64), (64, 128)]), "size")
    inputs = draw_matrix(2, steps, 2, values, keys, seed=data.draw(st.integers(0, 99)))
    cuts = sorted(data.draw(st.sets(st.integers(0, steps), max_size=4), "cuts"))
    with served_by("cpu"), torch.no_grad(), cpu_loader.using("avx512"):
        y, end = MATRIX.run(**inputs)
        state, outputs = None, []
        for start, stop in zip([0, *cuts], [*cuts, steps], strict=True):
            piece, state = MATRIX.run(**MATRIX.part(inputs, start, stop, state=state))
            outputs.append(piece)
    assert torch.equal(torch.cat(outputs, 1), y)
    assert state is not None
    assert torch.equal(state, end)


@pytest.mark.parametrize(
    ("heads", "groups", "tokens", "known", "channels"),
    [(9, 3, 100, 421, 64), (2, 2, 63, 65, 80), (3, 1, 5, 64, 5)],
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_attention_is_the_definition_in_pieces_too(
    heads: int,
    groups: int,
    tokens: int,
    known: int,
    channels: int,
    dtype: torch.dtype,
    emulated: pytest.MonkeyPatch,
) -> None:
    query = torch.randn(heads, tokens, channels).to(dtype)
    key, value = (torch.randn(groups, known, channels).to(dtype) for _ in range(2))
    found = causal_attention(query, key, value)
    truth = causal_attention_reference(query, key, value, channels**-0.5)
    assert distance(found, truth) < 2e-5 + torch.finfo(dtype).eps
    cut = tokens // 3
    first = causal_attention(query[:, :cut], key[:, : known - tokens + cut], value[:, : known - tokens + cut])
    assert torch.equal(torch.cat((first, causal_attention(query[:, cut:], key, value))), found)
