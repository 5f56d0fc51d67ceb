"""The choice of a kernel form: probed, forced, reported; and the loader of the C++ library."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from nih.errors import KernelError
from nih.kernels import backend, cpu_loader, cuda_loader, layout
from nih.kernels.wkv4 import wkv4
from tests.support.kernel_forms import WKV4

built = pytest.mark.skipif(bool(cpu_loader.missing()), reason="the C++ kernels are not built here")


@pytest.fixture(autouse=True)
def fresh_choices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test probes anew, with no variable set."""
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.delenv(cpu_loader.SIMD_VARIABLE, raising=False)
    backend._choose.cache_clear()
    yield
    backend._choose.cache_clear()


def without(form: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_loader if form == "cuda" else cpu_loader, "missing", lambda: why)


def is_a_sentence(error: BaseException) -> bool:
    text = str(error)
    return "\n" not in text and not text.endswith(".") and text.count("`") >= 2


@built
def test_auto_takes_the_library_on_a_cpu() -> None:
    form, why = backend.choose("cpu")
    assert form == "cpu"
    assert why.removeprefix("C++, ") in cpu_loader.PATHS


@built
@pytest.mark.parametrize("word", ["cpu", "torch", "reference", "CPU", " torch "])
def test_a_form_can_be_forced(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, word)
    assert backend.choose("cpu").form == word.strip().lower()


def test_forced_forms_serve_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for word in ("torch", "reference"):
        monkeypatch.setenv(backend.VARIABLE, word)
        assert [backend.choose(device).form for device in ("cpu", "cuda", "mps")] == [word] * 3


def test_unknown_words_are_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "fast")
    with pytest.raises(
        KernelError, match=r"`NIH_KERNELS=fast`.*`auto\|cuda\|cpu\|torch\|reference\|fla`"
    ) as caught:
        backend.choose("cpu")
    assert is_a_sentence(caught.value)


@pytest.mark.parametrize(("word", "device"), [("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cpu")])
def test_forcing_what_is_not_there_is_an_error(
    word: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(word, "it was not built; run `pip install nih`", monkeypatch)
    monkeypatch.setenv(backend.VARIABLE, word)
    with pytest.raises(
        KernelError, match=rf"`NIH_KERNELS={word}` .* it was not built; run `pip install nih`"
    ) as caught:
        backend.choose(device)
    assert is_a_sentence(caught.value)


@pytest.mark.parametrize(("word", "device"), [("cuda", "cpu"), ("cpu", "cuda"), ("cpu", "mps")])
def test_forcing_a_form_on_the_wrong_device_is_an_error(
    word: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(word, "", monkeypatch)
    monkeypatch.setenv(backend.VARIABLE, word)
    with pytest.raises(KernelError, match=rf"cannot read tensors on `{device}`.*`--device {word}`") as caught:
        backend.choose(device)
    assert is_a_sentence(caught.value)


def test_a_forced_error_reaches_the_caller_of_an_op(monkeypatch: pytest.MonkeyPatch) -> None:
    without("cpu", "it was not built; run `pip install nih`", monkeypatch)
    monkeypatch.setenv(backend.VARIABLE, "cpu")
    with torch.no_grad(), pytest.raises(KernelError, match="it was not built"):
        wkv4(**WKV4.make(1, 2, 3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "cuda")
    with pytest.raises(KernelError, match="torch sees no CUDA device; install") as caught:
        backend.choose("cuda")
    assert is_a_sentence(caught.value)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_falls_back_aloud_and_once(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(device, "it was not built; run `pip install nih`", monkeypatch)
    with pytest.warns(RuntimeWarning, match=f"slower pure-torch kernels serve `{device}`: it was not built"):
        assert backend.choose(device) == ("torch", "it was not built; run `pip install nih`")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.choose(device)


def test_devices_without_kernels_use_torch_quietly() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.choose("mps").form == "torch"


@built
def test_the_report_says_what_serves_and_why() -> None:
    report = backend.report()
    assert report["requested"] == "auto"
    assert report["devices"]["cpu"] == {"form": "cpu", "why": report["simd"]}
    assert report["forms"]["cpu"] == "available"
    assert report["threads"] == torch.get_num_threads()


def test_the_report_holds_a_forced_error_instead_of_raising(monkeypatch: pytest.MonkeyPatch) -> None:
    without("cpu", "it was not built; run `pip install nih`", monkeypatch)
    monkeypatch.setenv(backend.VARIABLE, "cpu")
    report = backend.report()
    assert report["devices"]["cpu"]["form"] == "none"
    assert "it was not built" in report["devices"]["cpu"]["error"]
    assert report["simd"] is None


# Instruction sets


@built
def test_every_path_up_to_the_best_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    best = cpu_loader.simd()
    for index, path in enumerate(cpu_loader.PATHS[: best + 1]):
        monkeypatch.setenv(cpu_loader.SIMD_VARIABLE, path)
        assert cpu_loader.simd() == index
        assert backend.choose("cpu").why == f"C++, {path}"


@built
def test_a_path_that_the_processor_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu_loader.SIMD_VARIABLE, "avx512")
    library = cpu_loader.library()
    cpu_loader._simd.cache_clear()

    class Old:
        def nih_simd(self) -> int:
            return 1

    monkeypatch.setattr(cpu_loader, "library", lambda: Old())
    with pytest.raises(
        KernelError, match=r"`NIH_SIMD=avx512` .* does not have; its best is `avx2`"
    ) as caught:
        cpu_loader.simd()
    assert is_a_sentence(caught.value)
    monkeypatch.setattr(cpu_loader, "library", lambda: library)
    cpu_loader._simd.cache_clear()


@built
def test_an_unknown_path_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu_loader.SIMD_VARIABLE, "sse9")
    with pytest.raises(KernelError, match=r"`NIH_SIMD=sse9`.*`auto\|portable\|avx2\|avx512`") as caught:
        backend.choose("cpu")
    assert is_a_sentence(caught.value)


# The C++ library


@built
def test_python_and_cpp_agree_on_the_argument_blocks() -> None:
    assert cpu_loader.library().nih_abi() == layout.abi()
    for block in (layout.Wkv4Args, layout.ScanArgs, layout.ConvArgs):
        assert {ctypes.sizeof(kind) for _, kind, *_ in block._fields_} == {8}


@built
def test_a_library_of_other_sources_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_loader._load.cache_clear()
    monkeypatch.setattr(layout, "abi", lambda: -1)
    try:
        assert "built from other sources" in cpu_loader.missing()
        with pytest.raises(KernelError, match="pip install"):
            cpu_loader.library()
    finally:
        monkeypatch.undo()
        cpu_loader._load.cache_clear()


def test_a_library_that_is_not_there_or_broken_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Spec:
        origin = str(tmp_path / "_cpu.so")

    try:
        for spec, why in ((None, "not built at install"), (Spec(), "cannot be loaded")):
            cpu_loader._load.cache_clear()
            monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
            assert why in cpu_loader.missing()
            assert "C++ compiler" in cpu_loader.missing()
    finally:
        monkeypatch.undo()
        cpu_loader._load.cache_clear()


def test_importing_the_ops_probes_nothing() -> None:
    """Kernels are found at the first call: importing an adapter costs neither a compiler nor a GPU."""
    code = (
        "from nih.kernels import backend, cpu_loader, cuda_loader, wkv4, selective_scan, causal_conv1d\n"
        "assert not backend._choose.cache_info().currsize and not cpu_loader._load.cache_info().currsize\n"
        "assert not cuda_loader.nvrtc.cache_info().currsize"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
