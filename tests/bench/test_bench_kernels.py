"""The kernel benchmark: no speed on red, fair bytes, every way named. Times themselves are not tested."""

from __future__ import annotations

import csv
import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch

from nih.bench import kernels as bench
from nih.bench.kernels import Case, Way
from nih.errors import KernelError
from nih.kernels import cpu_loader, cuda_loader, wkv4
from tests.support import cuda_emulator

SMALL = (Case("wkv4", 1, 2200, 8), Case("selective_scan", 2, 2200, 8), Case("causal_conv1d", 1, 2200, 8))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CPU_CASES", SMALL)
    monkeypatch.setattr(bench, "copy_bandwidth", lambda device: 10e9)


def test_every_way_is_measured_with_one_thread_and_with_all(tmp_path: Path) -> None:
    lines: list[str] = []
    bench.main("cpu", rounds=1, out=tmp_path / "table" / "cpu.csv", show=lines.append)
    with (tmp_path / "table" / "cpu.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["op"] for row in rows} == {case.op for case in SMALL}
    assert {int(row["threads"]) for row in rows} == {1, torch.get_num_threads()}
    for op, theirs in (
        ("wkv4", "transformers"),
        ("selective_scan", "transformers"),
        ("causal_conv1d", "torch conv1d + silu"),
    ):
        ways = {row["way"] for row in rows if row["op"] == op}
        assert {"nih torch", theirs} <= ways
        if not cpu_loader.missing():
            assert {f"nih C++, {path}" for path in cpu_loader.PATHS[: cpu_loader.simd() + 1]} <= ways
    printed = "\n".join(lines)
    for row in rows:
        assert row["way"] in printed
        assert float(row["GB/s"]) == pytest.approx(float(row["MB"]) / float(row["ms"]))
        assert float(row["of_copy"]) == pytest.approx(float(row["GB/s"]) / 10)
    firsts = {(row["op"], row["threads"]): row for row in reversed(rows)}
    assert {float(row["ours_is"]) for row in firsts.values()} == {1.0}


def test_no_speed_is_printed_where_ours_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes first in the table: one wrong form silences all of it."""
    right = bench._OURS["causal_conv1d"]

    def wrong(**x: Any) -> bench.Result:
        y, state = right(**x)
        return y * 1.01, state

    monkeypatch.setitem(bench._OURS, "causal_conv1d", wrong)
    lines: list[str] = []
    with pytest.raises(
        KernelError, match=r"is wrong by .* at causal_conv1d B=1 T=2200 C=8 float32, so no speed is printed"
    ):
        bench.main("cpu", rounds=1, show=lines.append)
    assert lines == []


def test_a_nan_is_wrong_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench._TORCH, "wkv4", lambda **x: (torch.full_like(x["v"], torch.nan), None))
    with pytest.raises(KernelError, match="`nih torch` is wrong by nan"):
        bench.main("cpu", rounds=1, show=lambda line: None)


def test_no_speed_is_printed_where_a_cut_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench._OURS["wkv4"]
    monkeypatch.setitem(bench._OURS, "wkv4", lambda **x: right(**(x | {"state": None})))
    with pytest.raises(KernelError, match="a cut at a chunk changes wkv4"):
        bench.main("cpu", rounds=1, show=lambda line: None)


def test_others_that_are_wrong_are_left_out_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_loop_wkv4", lambda x: (x["v"], None))
    lines: list[str] = []
    rows = bench.check(SMALL[0], "cpu", lines.append)
    assert "naive torch loop" not in rows
    assert lines[0].startswith(
        "wkv4 B=1 T=2200 C=8 float32: naive torch loop is left out, its outputs are wrong by"
    )


def test_bytes_are_each_input_and_output_once_or_inputs_twice_in_three_phases() -> None:
    once, twice = Way("", lambda x: None), Way("", lambda x: None, passes=2)  # type: ignore[arg-type, return-value]
    assert bench.moved(Case("wkv4", 1, 131072, 768), once) == 131072 * 768 * 12
    assert bench.moved(Case("wkv4", 1, 131072, 768, torch.bfloat16), twice) == 131072 * 768 * 10
    assert bench.moved(Case("selective_scan", 1, 100, 1536, torch.bfloat16), once) == 100 * (1536 * 8 + 64)
    assert bench.moved(Case("selective_scan", 1, 100, 1536, torch.bfloat16), twice) == 100 * (1536 * 12 + 96)
    assert bench.moved(Case("causal_conv1d", 2, 100, 8), once) == 2 * 100 * 8 * 8


@pytest.mark.skipif(cuda_emulator.COMPILER is None, reason="no g++ here")
def test_the_sequential_kernel_computes_the_same_op() -> None:
    """What the CUDA form is compared with on a GPU is at least right, by emulation."""
    library = cuda_emulator.compiled(bench.SEQUENTIAL, "Wkv4Args", {})
    inputs = bench.make(Case("wkv4", 3, 300, 21), "cpu")
    call = wkv4._prepare(inputs["w"], inputs["u"], inputs["k"], inputs["v"], None, None)
    name = cuda_loader.kernel_name("wkv4", "sequential", call.args.dtype)
    library.emulate(library[name], ctypes.byref(call.args), 2, 1, 1, 32)
    y, state = wkv4.wkv4_reference(**inputs)
    assert float((call.y - y).abs().max()) < 2e-5
    assert float((call.end[:, 0] / call.end[:, 1] - state[:, 0] / state[:, 1]).abs().max()) < 2e-5
