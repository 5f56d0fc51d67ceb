"""The CUDA sources and their loader: compiled for each architecture without spills, kept, reloaded; and, on a GPU, launched.

Values of the CUDA sources are tested everywhere, by emulation, in test_kernels.py.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nih.errors import KernelError
from nih.kernels import backend, causal_conv1d, cuda_loader, selective_scan, wkv4
from nih.kernels.cuda_loader import KERNELS, Build, Nvrtc
from tests.support import cuda_emulator
from tests.support.kernel_forms import (
    FORMS,
    OPS,
    SCAN,
    WKV4,
    Op,
    arguments,
    distance,
    served_by,
    state_distance,
    to,
)

SOURCES = Path(cuda_loader.__file__).parent
NAMES = ("wkv4", "selective_scan", "causal_conv1d", "matrix_state")
ARCHITECTURES = ((8, 0), (9, 0), (10, 0), (12, 0))
REGISTERS = {"wkv4": 64, "selective_scan": 128, "causal_conv1d": 64, "matrix_state": 208}
"""Most registers that a thread may take: at 64, half of a multiprocessor's threads are resident; the scan reads 32 tokens ahead, the matrix
state five sequences of up to 16 tokens beside its 16 keys: one head is a block, and there are few of them."""
VARIANTS = (
    *((name, "") for name in NAMES),
    ("selective_scan", "-DNIH_LANES=4"),
    ("selective_scan", "-DNIH_LANES=16"),
    ("matrix_state", "-DNIH_KEYS=128 -DNIH_LANES=8 -DNIH_DELTA=0 -DNIH_BEFORE=1"),
)

needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc here")
needs_nvrtc = pytest.mark.skipif(
    cuda_loader.nvrtc() is None, reason="no NVRTC here: `pip install nvidia-cuda-nvrtc`"
)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: not run")
every_op = pytest.mark.parametrize("op", OPS.values(), ids=list(OPS))


def check_report(name: str, report: str) -> None:
    """ptxas's report: every kernel that the host code launches is there, none spills, none takes too many registers."""
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
        r"Used (\d+) registers",
        report,
        re.DOTALL,
    )
    expected = {
        cuda_loader.kernel_name(name, kernel, dtype) for kernel in KERNELS[name] for dtype in (0, 1, 2)
    }
    assert {entry[0] for entry in found} == expected
    for kernel, stack, stores, loads, registers in found:
        assert (int(stack), int(stores), int(loads)) == (0, 0, 0), f"{kernel} spills"
        assert int(registers) <= REGISTERS[name], f"{kernel} takes {registers} registers"


@needs_nvcc
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: f"sm_{a[0]}{a[1]}")
@pytest.mark.parametrize(("name", "macro"), VARIANTS)
def test_nvcc_compiles_without_warnings_or_spills(
    name: str, macro: str, architecture: tuple[int, int], tmp_path: Path
) -> None:
    target = f"-arch=sm_{architecture[0]}{architecture[1]}"
    command = ["nvcc", "-cubin", target, "-std=c++17", "-Werror", "all-warnings", "-Xptxas", "-v"]
    command += macro.split()
    done = subprocess.run(
        [*command, str(SOURCES / f"{name}.cu"), "-o", str(tmp_path / "out.cubin")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    check_report(name, done.stdout + done.stderr)


@needs_nvrtc
@pytest.mark.parametrize(
    ("name", "architecture", "macros"),
    [
        *((name, ARCHITECTURES[1], {}) for name in NAMES),
        *(("wkv4", architecture, {}) for architecture in ARCHITECTURES),
        ("selective_scan", (9, 0), {"NIH_STATES": 5, "NIH_LANES": 4}),
        ("causal_conv1d", (9, 0), {"NIH_TAPS": 1}),
        ("matrix_state", (9, 0), {"NIH_KEYS": 256, "NIH_LANES": 16}),
    ],
    ids=str,
)
def test_nvrtc_compiles_without_a_toolkit(
    name: str, architecture: tuple[int, int], macros: dict[str, int]
) -> None:
    compiler = cuda_loader.nvrtc()
    assert compiler is not None
    build = Build.of(name, architecture, macros, compiler)
    code = compiler.compile(build.source, f"{name}.cu", build.headers, build.options)
    assert code.startswith(b"\x7fELF")
    for kernel in KERNELS[name]:
        assert cuda_loader.kernel_name(name, kernel, 1).encode() in code


@needs_nvrtc
def test_an_error_in_a_source_is_reported_with_the_compilers_words() -> None:
    compiler = cuda_loader.nvrtc()
    assert compiler is not None
    with pytest.raises(
        KernelError,
        match=r"NVRTC \d+\.\d+(\.\d+)? cannot compile `broken.cu` with --std=c\+\+17: .*nothing_known",
    ):
        compiler.compile("int f() { return nothing_known; }", "broken.cu", {}, ("--std=c++17",))


@needs_nvrtc
def test_a_gpu_that_nvrtc_does_not_know_is_named() -> None:
    compiler = cuda_loader.nvrtc()
    assert compiler is not None
    with pytest.raises(
        KernelError, match=r"does not compile for compute capability 3\.5 .*`NIH_KERNELS=torch`"
    ):
        Build.of("wkv4", (3, 5), {}, compiler)


# The cache, with a compiler that only counts


class Counting(Nvrtc):
    """Compiles to a digest of what it was given."""

    calls: list[str] = []  # noqa: RUF012

    def compile(self, source: str, name: str, headers: dict[str, str], options: tuple[str, ...]) -> bytes:
        self.calls.append(name)
        everything = repr((source, name, sorted(headers.items()), options, self.version))
        return hashlib.sha256(everything.encode()).digest()

    def architectures(self) -> tuple[int, ...]:
        return (80, 90)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Counting]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    Counting.calls.clear()
    yield Counting(ctypes.CDLL(None), (13, 0))


def test_a_source_is_compiled_once(compiler: Counting, tmp_path: Path) -> None:
    first = Build.of("wkv4", (9, 0), {}, compiler).cubin(compiler)
    again = Build.of("wkv4", (9, 0), {}, compiler).cubin(compiler)
    assert first == again
    assert compiler.calls == ["wkv4.cu"]
    (kept,) = (tmp_path / "nih" / "kernels").iterdir()
    assert re.fullmatch(r"wkv4-[0-9a-f]{32}\.cubin", kept.name)
    assert kept.read_bytes() == first


def test_everything_that_decides_the_code_is_in_its_name(compiler: Counting) -> None:
    base = Build.of("selective_scan", (9, 0), {"NIH_STATES": 16}, compiler)
    others = [
        Build.of("selective_scan", (8, 0), {"NIH_STATES": 16}, compiler),
        Build.of("selective_scan", (9, 0), {"NIH_STATES": 8}, compiler),
        Build.of("selective_scan", (9, 0), {}, compiler),
        Build.of("wkv4", (9, 0), {"NIH_STATES": 16}, compiler),
        Build(base.name, base.source + " ", base.headers, base.options, base.version),
        Build(base.name, base.source, {"core.h": base.headers["core.h"] + " "}, base.options, base.version),
        Build(base.name, base.source, base.headers, base.options, (13, 1)),
        Build(base.name, base.source, base.headers, base.options, (13, 0, 88)),
    ]
    assert len({base.file, *(other.file for other in others)}) == 1 + len(others)
    assert base.file == Build.of("selective_scan", (9, 0), {"NIH_STATES": 16}, compiler).file


def test_processes_may_compile_side_by_side(compiler: Counting, tmp_path: Path) -> None:
    """Whoever comes last replaces the file by a rename: a reader never sees half of one, and nothing else is left."""
    build = Build.of("wkv4", (9, 0), {}, compiler)
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: results.append(build.cubin(compiler, fresh=True))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results)) == 1
    assert [file.name for file in (tmp_path / "nih" / "kernels").iterdir()] == [build.file]


def test_a_write_that_fails_half_way_leaves_nothing(
    compiler: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    build = Build.of("wkv4", (9, 0), {}, compiler)
    with pytest.warns(RuntimeWarning, match="not kept: .*No space left on device; set `XDG_CACHE_HOME`"):
        assert build.cubin(compiler)
    assert list((tmp_path / "nih" / "kernels").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_a_warning(
    compiler: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    build = Build.of("wkv4", (9, 0), {}, compiler)
    with pytest.warns(RuntimeWarning, match="compiled kernels are not kept"):
        assert len(build.cubin(compiler)) == 32


def test_code_that_nothing_uses_any_more_is_deleted(compiler: Counting) -> None:
    folder = cuda_loader.cache_folder()
    old, used = (
        Build.of("wkv4", (9, 0), {"OLD": 1}, compiler),
        Build.of("wkv4", (9, 0), {"USED": 1}, compiler),
    )
    for build in (old, used):
        build.cubin(compiler)
        os.utime(folder / build.file, (0.0, 0.0))
    used.cubin(compiler)
    new = Build.of("wkv4", (9, 0), {}, compiler)
    new.cubin(compiler)
    assert {file.name for file in folder.iterdir()} == {used.file, new.file}


class FakeDriver:
    """Takes only what the counting compiler makes, and notes what is launched."""

    def __init__(self, refuses: bytes = b"") -> None:
        self.refuses = refuses
        self.loaded: list[bytes] = []
        self.log: list[str] = []

    def enter(self, device: int) -> None:
        self.log.append(f"enter {device}")

    def leave(self) -> None:
        self.log.append("leave")

    def function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        self.log.append(name)
        return ctypes.c_void_p(len(self.log))

    def load(self, code: bytes) -> ctypes.c_void_p:
        self.loaded.append(code)
        if code == self.refuses:
            raise KernelError("the CUDA driver's `cuModuleLoadData` failed: device kernel image is invalid")
        return ctypes.c_void_p(7)


def test_damaged_code_is_compiled_anew_once(compiler: Counting) -> None:
    build = Build.of("wkv4", (9, 0), {}, compiler)
    good = build.cubin(compiler)
    path = cuda_loader.cache_folder() / build.file
    path.write_bytes(b"torn")
    driver = FakeDriver(refuses=b"torn")
    with pytest.warns(RuntimeWarning, match="are compiled anew: .*image is invalid"):
        assert cuda_loader.load(build, compiler, driver).value == 7  # type: ignore[arg-type]
    assert driver.loaded == [b"torn", good]
    assert path.read_bytes() == good
    with pytest.warns(RuntimeWarning), pytest.raises(KernelError, match="image is invalid"):
        cuda_loader.load(build, compiler, FakeDriver(refuses=good))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_every_kernel_is_loaded_with_its_source(
    name: str, compiler: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the first launch may be captured into a graph. The context is left as it was."""
    driver = FakeDriver()
    monkeypatch.setattr(cuda_loader, "driver", lambda: driver)
    module = cuda_loader.opened(Build.of(name, (9, 0), {}, compiler), 3, KERNELS[name], compiler)
    expected = {
        cuda_loader.kernel_name(name, kernel, dtype) for kernel in KERNELS[name] for dtype in (0, 1, 2)
    }
    assert set(module.functions) == expected
    assert driver.log == ["enter 3", *sorted(expected), "leave"]
    source = (SOURCES / f"{name}.cu").read_text()
    assert all(kernel in source for kernel in KERNELS[name])


def test_python_and_cuda_cut_time_alike() -> None:
    header = (SOURCES / "core.h").read_text()
    for name, chunk in (("WKV4", wkv4.CHUNK), ("SCAN", selective_scan.CHUNK), ("CONV", causal_conv1d.CHUNK)):
        assert f"{name}_CHUNK = {chunk}" in header


def test_the_grid_covers_every_channel_and_loops_over_many_rows() -> None:
    assert cuda_loader.grid(1, 3, 2) == (3, 1, 2)
    assert cuda_loader.grid(64, 1, 1) == (1, 1, 1)
    assert cuda_loader.grid(65, 1, 1) == (1, 2, 1)
    assert cuda_loader.grid(65, 1, 1, 16) == (1, 5, 1)
    assert cuda_loader.grid(8, 1, 1 << 20) == (1, 1, 65535)


def test_emulation_covers_more_rows_than_a_grid_has(monkeypatch: pytest.MonkeyPatch) -> None:
    if "emulated" not in FORMS:
        pytest.skip("no g++ here")
    monkeypatch.setattr(cuda_loader, "_MOST_ROWS", 2)
    for op in OPS.values():
        inputs = op.make(5, op.chunk + 3, 4)
        with served_by("emulated"), torch.no_grad():
            y, state = op.run(**inputs)
        true_y, true_state = op.reference(**inputs)
        assert distance(y, true_y) < 2e-5
        assert state_distance(op, state, true_state) < 2e-5


@pytest.mark.skipif(cuda_emulator.COMPILER is None, reason="no g++ here")
def test_a_slow_factor_has_no_bias_though_the_instruction_has() -> None:
    """A factor next to 1 is applied thousands of times: its errors must cancel, not add up."""
    source = '#include "core.h"\nextern "C" float bare(float x) { return nih_ex2(x); }\n'
    source += 'extern "C" float factor(float x) { return nih_exp2(x); }'
    library = cuda_emulator.compiled(source, "Wkv4Args", {})
    xs = -np.geomspace(1e-6, 0.0624, 5000).astype(np.float32)
    error = {}
    for name in ("bare", "factor"):
        function = library[name]
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
        assert function(0.0) == 1.0
        assert (function(-1000.0), function(-math.inf)) == (0.0, 0.0)
        values = np.array([function(float(x)) for x in xs], dtype=np.float64)
        error[name] = (values - np.exp2(xs.astype(np.float64))) * 2.0**24
    assert error["bare"].mean() < -0.9
    assert abs(error["factor"].mean()) < 0.02
    assert np.abs(error["factor"]).max() < 0.6


def test_too_many_states_for_the_registers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "choose", lambda device_type: backend.Choice("cuda", ""))
    inputs = SCAN.make(1, 2, 4, states=selective_scan.CUDA_STATES + 1)
    sentence = r"at most 64 states per channel, but this model has 65; set `NIH_KERNELS=torch`"
    with pytest.raises(KernelError, match=sentence):
        selective_scan._run_cuda(*arguments(SCAN, inputs))
    with pytest.raises(KernelError, match=sentence):
        selective_scan.refuse_states(65, "cuda")
    selective_scan.refuse_states(64, "cuda")
    monkeypatch.undo()
    selective_scan.refuse_states(65, "cpu")


@pytest.mark.parametrize("form", [form for form in ("emulated", "cuda") if form in FORMS])
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_the_cuda_scan_may_be_cut_anywhere(lanes: int, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selective_scan, "CUDA_LANES", lanes)
    inputs = SCAN.make(2, 203, 20)
    true_y, true_state = SCAN.reference(**inputs)
    with served_by(form) as device, torch.no_grad():
        inputs = to(inputs, device)
        y, state = SCAN.run(**inputs)
        assert distance(y, true_y) < 2e-5
        assert distance(state, true_state) < 2e-5
        for cut in (1, 31, 32, 33, 100, 202):
            first, middle = SCAN.run(**SCAN.part(inputs, 0, cut))
            second, end = SCAN.run(**SCAN.part(inputs, cut, None, state=middle))
            assert torch.equal(torch.cat((first, second), 1), y)
            assert torch.equal(end, state)


@needs_gpu
@every_op
def test_gpu_other_stream(op: Op) -> None:
    inputs = to(op.make(2, op.chunk + 9, 70), torch.device("cuda"))
    with torch.no_grad():
        y, state = op.run(**inputs)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            other_y, other_state = op.run(**inputs)
        stream.synchronize()
    assert torch.equal(other_y, y)
    assert torch.equal(other_state, state)


@needs_gpu
@every_op
def test_gpu_graph_capture(op: Op) -> None:
    inputs = to(op.make(2, op.chunk + 9, 70), torch.device("cuda"))
    with torch.no_grad():
        y, state = op.run(**inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured_y, captured_state = op.run(**inputs)
        graph.replay()
        torch.cuda.synchronize()
    assert torch.equal(captured_y, y)
    assert torch.equal(captured_state, state)


@needs_gpu
@every_op
def test_gpu_from_a_thread_of_its_own(op: Op) -> None:
    """A thread that never touched CUDA has no current context: the loader brings its own."""
    inputs = to(op.make(1, op.chunk + 9, 70), torch.device("cuda"))
    results: list[Any] = []

    def work() -> None:
        with torch.no_grad():
            results.append(op.run(**inputs))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert distance(results[0][0], op.reference(**to(inputs, torch.device("cpu")))[0]) < 2e-5


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no second CUDA device here: not run")
@every_op
def test_gpu_second_device(op: Op) -> None:
    inputs = op.make(2, op.chunk + 9, 70)
    with torch.no_grad():
        y, _ = op.run(**to(inputs, torch.device("cuda:1")))
    assert y.device.index == 1
    assert distance(y, op.reference(**inputs)[0]) < 2e-5


@needs_gpu
def test_gpu_more_than_two_to_the_31_elements() -> None:
    """Offsets are 64 bits wide: the last rows of a huge batch equal those rows alone."""
    rows, steps, channels = 17, 1 << 16, 2048
    inputs = to(WKV4.make(1, steps, channels), torch.device("cuda"))
    inputs |= {name: inputs[name].bfloat16().expand(rows, -1, -1).contiguous() for name in ("k", "v")}
    assert inputs["k"].numel() > 1 << 31
    with torch.no_grad():
        y, state = WKV4.run(**inputs)
        last_y, last_state = WKV4.run(**WKV4.row(inputs, rows - 1, steps))
    assert torch.equal(y[-1:], last_y)
    assert torch.equal(state[-1:], last_state)


@every_op
@pytest.mark.parametrize("form", [form for form in ("emulated", "cuda") if form in FORMS])
def test_gpu_forms_agree_with_the_cpu(op: Op, form: str) -> None:
    inputs = op.make(1, 3 * op.chunk + 9, 96)
    with torch.no_grad():
        cpu_y, cpu_state = op.run(**inputs)
        with served_by(form) as device:
            y, state = op.run(**to(inputs, device))
    assert distance(y, cpu_y) < 2e-5
    assert state_distance(op, state, cpu_state) < 2e-5
