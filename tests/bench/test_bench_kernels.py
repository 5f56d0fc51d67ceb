"""The kernel benchmark: no speed on red, fair bytes, every way named. Times themselves are not tested."""

from __future__ import annotations

import csv
import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nih.bench import attention, kernel_ops, linear
from nih.bench import kernels as bench
from nih.bench.kernel_ops import OPS, Case, Inputs, Result, Way
from nih.errors import KernelError
from nih.kernels import cpu_loader, cuda_loader, wkv4
from tests.support import cuda_emulator

SMALL = (Case("wkv4", 1, 2200, 8), Case("selective_scan", 2, 2200, 8), Case("causal_conv1d", 1, 2200, 8))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CPU_CASES", SMALL)
    monkeypatch.setattr(bench, "copy_bandwidth", lambda device: 10e9)
    monkeypatch.setattr(attention, "SHAPES", (attention.Shape(6, 2, 70, 200, 24),))
    monkeypatch.setattr(linear, "SHAPES", (linear.Shape(7, 40, 30, 2),))


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
        assert float(row["of_ideal"]) == pytest.approx(float(row["ideal_ms"]) / float(row["ms"]))
        assert float(row["of_ideal"]) <= float(row["of_copy"]) * (1 + 1e-9)
    firsts = {(row["op"], row["threads"]): row for row in reversed(rows)}
    assert {float(row["ours_is"]) for row in firsts.values()} == {1.0}


def change(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    monkeypatch.setitem(OPS, name, replace(OPS[name], **fields))


def test_no_speed_is_printed_where_ours_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever comes first in the table: one wrong form silences all of it."""
    right = OPS["causal_conv1d"].ours

    def wrong(**x: Any) -> Result:
        y, state = right(**x)
        return y * 1.01, state

    change(monkeypatch, "causal_conv1d", ours=wrong)
    lines: list[str] = []
    with pytest.raises(
        KernelError, match=r"is wrong by .* at causal_conv1d B=1 T=2200 C=8 float32, so no speed is printed"
    ):
        bench.main("cpu", rounds=1, show=lines.append)
    assert lines == []


def test_a_nan_is_wrong_too(monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, "wkv4", torch=lambda **x: (torch.full_like(x["v"], torch.nan), None))
    with pytest.raises(KernelError, match="`nih torch` is wrong by nan"):
        bench.main("cpu", rounds=1, show=lambda line: None)


def test_no_speed_is_printed_where_a_cut_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    right = OPS["wkv4"].ours
    change(monkeypatch, "wkv4", ours=lambda **x: right(**(x | {"state": None})))
    with pytest.raises(KernelError, match="a cut at a chunk changes wkv4"):
        bench.main("cpu", rounds=1, show=lambda line: None)


def rival(run: Callable[[Inputs], Any], **fields: Any) -> Callable[[str], list[Way]]:
    return lambda device: [Way("naive torch loop", run, **fields)]


def test_others_that_are_wrong_are_left_out_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch, "wkv4", rivals=rival(lambda x: (x["v"], None)))
    lines: list[str] = []
    assert "naive torch loop" not in bench.check(SMALL[0], "cpu", lines.append)
    assert lines[0].startswith(
        "wkv4 B=1 T=2200 C=8 float32: naive torch loop is left out, its outputs are wrong by"
    )


def test_others_that_are_too_large_or_run_out_of_memory_leave_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hungry(x: Inputs) -> Result:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for fields, why in (
        ({"intermediates": lambda case: 1 << 40}, "its intermediates take 1024 GiB"),
        ({}, "it runs out of memory"),
    ):
        change(monkeypatch, "wkv4", rivals=rival(hungry, **fields))
        lines: list[str] = []
        sound = [way.name for way in OPS["wkv4"].ways(SMALL[0], "cpu")]
        rows = bench.measure(SMALL[0], sound, "cpu", 1, 10e9, lines.append)
        assert [row["way"] for row in rows] == sound[:-1]
        assert f"  naive torch loop is left out: {why}" in lines


def test_one_op_can_be_measured_alone_and_rows_are_written_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, "causal_conv1d", rivals=lambda device: [])
    out = tmp_path / "cpu.csv"
    seen: list[int] = []
    right = bench.measure

    def watched(*args: Any) -> list[dict[str, Any]]:
        seen.append(len(out.read_text().splitlines()))
        return right(*args)

    monkeypatch.setattr(bench, "CPU_CASES", (SMALL[2], SMALL[0], Case("causal_conv1d", 1, 2100, 4)))
    monkeypatch.setattr(bench, "measure", watched)
    bench.main("cpu", rounds=1, out=out, only="causal_conv1d", show=lambda line: None)
    with out.open() as file:
        assert {row["op"] for row in csv.DictReader(file)} == {"causal_conv1d"}
    assert seen[0] == 0
    assert seen == sorted(set(seen))
    with pytest.raises(KernelError, match=r"`--only attention` names no op; give one of `wkv4\|"):
        bench.main("cpu", only="attention")


def test_bytes_are_each_input_and_output_once_and_the_inputs_again_per_further_pass() -> None:
    wkv4, scan, conv, rwkv7, mamba2 = OPS.values()
    assert wkv4.moved(Case("wkv4", 1, 131072, 768)) == 131072 * 768 * 12
    assert wkv4.moved(Case("wkv4", 1, 131072, 768, torch.bfloat16), 2) == 131072 * 768 * 10
    assert scan.moved(Case("selective_scan", 1, 100, 1536, torch.bfloat16)) == 100 * (1536 * 8 + 64)
    assert conv.moved(Case("causal_conv1d", 2, 100, 8)) == 2 * 100 * 8 * 8
    inputs = scan.inputs(Case("selective_scan", 2, 7, 8, torch.bfloat16), "cpu")
    read = sum(inputs[name].nbytes for name in scan.timed)
    assert scan.moved(Case("selective_scan", 2, 7, 8, torch.bfloat16)) == read + inputs["u"].nbytes
    assert rwkv7.moved(Case("rwkv7", 1, 100, 768)) == 100 * 768 * 7 * 4
    assert mamba2.moved(Case("mamba2", 1, 100, 768)) == 100 * (768 * 2 + 12 + 2 * 128) * 4


@pytest.mark.parametrize("op", ["rwkv7", "mamba2"])
def test_the_rivals_of_the_matrix_state_compute_the_same(op: str) -> None:
    case = Case(op, 2, 300, 128)
    inputs = OPS[op].inputs(case, "cpu")
    y, state = OPS[op].truth(**inputs)
    for way in OPS[op].ways(case, "cpu"):
        other_y, other_state = way.run(inputs)
        assert float((other_y - y).abs().max()) < 1e-5, way.name
        assert float((other_state - state).abs().max()) < 1e-5, way.name


@pytest.mark.skipif(cuda_emulator.COMPILER is None, reason="no g++ here")
def test_the_sequential_kernel_computes_the_same_op() -> None:
    """The kernel that the CUDA form is compared with on a GPU is at least right, by emulation."""
    source = Path(kernel_ops.__file__).with_name("wkv4_sequential.cu").read_text()
    library = cuda_emulator.compiled(source, "Wkv4Args", {})
    inputs = OPS["wkv4"].inputs(Case("wkv4", 3, 300, 21), "cpu")
    call = wkv4.prepare(inputs["w"], inputs["u"], inputs["k"], inputs["v"], None, None)
    name = cuda_loader.kernel_name("wkv4_sequential", "read", call.args.dtype)
    library.emulate(library[name], ctypes.byref(call.args), 2, 1, 1, 32)
    y, state = wkv4.wkv4_reference(**inputs)
    assert float((call.y - y).abs().max()) < 2e-5
    assert float((call.end[:, 0] / call.end[:, 1] - state[:, 0] / state[:, 1]).abs().max()) < 2e-5


def test_attention_is_measured_beside_torchs_if_all_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    bench.main("cpu", rounds=1, only=attention.NAME, show=lines.append)
    table = "\n".join(lines)
    assert {"nih torch", "sdpa with a mask"} <= {line[2:36].strip() for line in table.splitlines()}
    monkeypatch.setattr(attention, "causal_attention_torch", lambda q, k, v, scale: v.new_zeros(70, 6, 24))
    lines.clear()
    with pytest.raises(KernelError, match=r"`nih torch` is wrong by .* so no speed is printed"):
        bench.main("cpu", rounds=1, show=lines.append)
    assert lines == []


def test_products_are_measured_beside_torchs_if_they_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    bench.main("cpu", rounds=1, only=linear.NAME, show=lines.append)
    table = "\n".join(lines)
    assert "torch" in {line[2:36].strip() for line in table.splitlines()} and "M=7 N=40 K=30" in table
    monkeypatch.setattr(linear, "_ways", lambda: {"nih": lambda x, weight: x.new_zeros(7, 40)})
    with pytest.raises(KernelError, match=r"`nih` is wrong by .* so no speed is printed"):
        bench.main("cpu", rounds=1, only=linear.NAME, show=lines.append)


@pytest.mark.parametrize("name", bench.CPU_ONLY)
def test_kernels_for_cpus_are_not_measured_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "pick_device", lambda device: torch.device("cuda"))
    with pytest.raises(KernelError, match="add `--device cpu`"):
        bench.main("cuda", only=name)


def test_the_operations_of_attention_are_those_of_what_is_seen() -> None:
    """Two products of D channels, a multiplication and an addition each, for every pair of a token and one that it sees."""
    shape = attention.Shape(3, 1, 5, 9, 7)
    pairs = sum(4 + token + 1 for token in range(5))
    assert shape.operations == 4 * 7 * 3 * pairs
