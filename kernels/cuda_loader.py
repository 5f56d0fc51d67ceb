"""Compile the CUDA kernels with NVRTC for the GPU at hand, keep the machine code on disk, and launch it on torch's stream.

No CUDA toolkit is needed: NVRTC comes with torch's CUDA wheels, the driver with the GPU. A compiled source is named by the hash of all that
decides it (sources, options, NVRTC's version, architecture) and appears by an atomic rename, so that processes may compile side by side.
Machine code that has not been used for 90 days is deleted when new code is written.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import hashlib
import importlib.util
import os
import re
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nih.errors import KernelError
from nih.kernels.layout import Call

BLOCK = 64
"""Threads of a block where each is one channel."""
KERNELS = {
    "wkv4": ("summarise", "fold", "replay"),
    "selective_scan": ("advance",),
    "causal_conv1d": ("convolve",),
    "matrix_state": ("advance",),
}
"""The kernels in the source of each op."""
_SOURCES = Path(__file__).parent
_OPTIONS = ("--std=c++17",)
_MOST_ROWS = 65535
_NO_NVRTC = (
    "NVRTC, the run-time compiler of torch's CUDA wheels, is not found; "
    "run `pip install nvidia-cuda-nvrtc-cu12` (CUDA 12) or `pip install nvidia-cuda-nvrtc` (CUDA 13)"
)
_SUFFIX = ("f32", "bf16", "f16")
_KEPT_SECONDS = 90 * 86400.0


# NVRTC


@dataclass(frozen=True)
class Nvrtc:
    """The run-time compiler, and its version: major, minor and, where it tells it, the patch level."""

    library: ctypes.CDLL
    version: tuple[int, ...]

    @classmethod
    def at(cls, path: Path | str) -> Nvrtc:
        """Load libnvrtc. Raises OSError if that fails."""
        library = ctypes.CDLL(str(path))
        major, minor = ctypes.c_int(), ctypes.c_int()
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        compiler = cls(library, (major.value, minor.value))
        return cls(library, (*compiler.version, *compiler._patch()))

    def _patch(self) -> tuple[int, ...]:
        """The patch level, which only the assembly of a compiled source tells: `V13.0.88`."""
        assembly = self._compile("", "empty.cu", {}, (), "PTX").decode(errors="replace")
        found = re.search(r"\bV\d+\.\d+\.(\d+)", assembly)
        return (int(found[1]),) if found else ()

    def compile(self, source: str, name: str, headers: dict[str, str], options: tuple[str, ...]) -> bytes:
        """Return the machine code (a cubin) of one source. Raises KernelError with the compiler's log."""
        return self._compile(source, name, headers, options, "CUBIN")

    def _compile(
        self, source: str, name: str, headers: dict[str, str], options: tuple[str, ...], output: str
    ) -> bytes:
        program = ctypes.c_void_p()
        texts = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
        names = (ctypes.c_char_p * len(headers))(*(key.encode() for key in headers))
        self._check(
            self.library.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), name.encode(), len(headers), texts, names
            )
        )
        try:
            flags = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            if self.library.nvrtcCompileProgram(program, len(options), flags):
                raise KernelError(
                    f"NVRTC {dotted(self.version)} cannot compile `{name}` with {' '.join(options)}: "
                    + " ".join(self._log(program).split())
                )
            return self._read(program, output)
        finally:
            self.library.nvrtcDestroyProgram(ctypes.byref(program))

    def _log(self, program: ctypes.c_void_p) -> str:
        """Return the compiler's messages."""
        return self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")

    def architectures(self) -> tuple[int, ...]:
        """Return the compute capabilities that it compiles for, as 10 * major + minor, ascending."""
        count = ctypes.c_int()
        self._check(self.library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        found = (ctypes.c_int * count.value)()
        self._check(self.library.nvrtcGetSupportedArchs(found))
        return tuple(sorted(found))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(self.library[f"nvrtcGet{what}Size"](program, ctypes.byref(size)))
        content = ctypes.create_string_buffer(size.value)
        self._check(self.library[f"nvrtcGet{what}"](program, content))
        return content.raw

    def _check(self, status: int) -> None:
        if status:
            self.library.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise KernelError(f"NVRTC failed: {self.library.nvrtcGetErrorString(status).decode()}")


def dotted(version: tuple[int, ...]) -> str:
    """A version in print: `13.0.88`."""
    return ".".join(map(str, version))


@functools.cache
def nvrtc() -> Nvrtc | None:
    """Find the run-time compiler of this environment: the one of torch's own CUDA version where there are several. None if there is none."""
    for path in _nvrtc_files():
        try:
            for builtins in sorted(path.parent.glob("libnvrtc-builtins*.so*")):
                if ".alt." not in builtins.name:
                    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
            return Nvrtc.at(path)
        except OSError as error:
            warnings.warn(f"`{path}` cannot be loaded: {error}", RuntimeWarning, stacklevel=2)
    soname = ctypes.util.find_library("nvrtc")
    return Nvrtc.at(soname) if soname else None


def _nvrtc_files() -> list[Path]:
    folders = [Path(torch.__file__).parent / "lib"]
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations or () if spec else ():
        folders += [*sorted(Path(root).glob("cu*/lib"), reverse=True), Path(root) / "cuda_nvrtc" / "lib"]
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        folders += [Path(home) / "lib64"] if home else []
    files = [
        file for folder in folders for file in sorted(folder.glob("libnvrtc*.so*")) if _is_nvrtc(file.name)
    ]
    major = (torch.version.cuda or "").split(".")[0]
    ours = [file for file in files if major and re.search(rf"\.so\.{major}\b", file.name)]
    return ours or (files if not major else [])


def _is_nvrtc(name: str) -> bool:
    return re.fullmatch(r"libnvrtc(-[0-9a-f]{6,})?\.so(\.[0-9.]+)?", name) is not None


# Cache


def cache_folder() -> Path:
    """Return where compiled kernels are kept: `$XDG_CACHE_HOME/nih/kernels`, by default under `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nih" / "kernels"


@dataclass(frozen=True)
class Build:
    """All that decides a compiled source: its name, the texts, the options, the compiler's version."""

    name: str
    source: str
    headers: dict[str, str]
    options: tuple[str, ...]
    version: tuple[int, ...]

    @classmethod
    def of(
        cls,
        name: str,
        capability: tuple[int, int],
        macros: dict[str, int],
        compiler: Nvrtc,
        folder: Path = _SOURCES,
    ) -> Build:
        """Describe the source `<name>.cu` for one compute capability. Raises KernelError if the compiler is too old for it."""
        wanted = 10 * capability[0] + capability[1]
        known = compiler.architectures()
        if wanted not in known:
            raise KernelError(
                f"NVRTC {dotted(compiler.version)} does not compile for compute capability {capability[0]}.{capability[1]} "
                f"(it does for {', '.join(map(str, known))}); install a torch whose CUDA knows this GPU, "
                "or set `NIH_KERNELS=torch`"
            )
        options = (
            *_OPTIONS,
            f"--gpu-architecture=sm_{wanted}",
            *(f"-D{key}={n}" for key, n in sorted(macros.items())),
        )
        source = (folder / f"{name}.cu").read_text(encoding="utf-8")
        headers = {"core.h": (_SOURCES / "core.h").read_text(encoding="utf-8")}
        return cls(name, source, headers, options, compiler.version)

    @property
    def file(self) -> str:
        """Return the name in the cache."""
        parts = [
            self.name,
            self.source,
            *sum(sorted(self.headers.items()), ()),
            *self.options,
            *map(str, self.version),
        ]
        digest = hashlib.sha256()
        for part in parts:
            digest.update(len(part.encode()).to_bytes(8, "little") + part.encode())
        return f"{self.name}-{digest.hexdigest()[:32]}.cubin"

    def cubin(self, compiler: Nvrtc, fresh: bool = False) -> bytes:
        """Return the machine code, from the cache unless it is not there or must be `fresh`. A cache that cannot be written is a warning."""
        path = cache_folder() / self.file
        if not fresh:
            with contextlib.suppress(OSError):
                code = path.read_bytes()
                with contextlib.suppress(OSError):
                    os.utime(path)  # used today: not stale
                return code
        code = compiler.compile(self.source, f"{self.name}.cu", self.headers, self.options)
        try:
            _write(path, code)
        except OSError as error:
            warnings.warn(
                f"compiled kernels are not kept: {error}; set `XDG_CACHE_HOME`", RuntimeWarning, stacklevel=2
            )
        return code


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _prune(path.parent)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def _prune(folder: Path) -> None:
    """Delete machine code that nothing has used for a long time: that of older sources, compilers and GPUs."""
    oldest = time.time() - _KEPT_SECONDS
    for file in folder.glob("*.cubin"):
        with contextlib.suppress(OSError):  # another process may be as quick
            if file.stat().st_mtime < oldest:
                file.unlink()


# Driver


class Launch(NamedTuple):
    """One kernel of a source, and how it is spread: blocks in three directions, threads of a block."""

    kernel: str
    grid: tuple[int, int, int]
    threads: int = BLOCK


class Driver:
    """The few functions of the CUDA driver that loading and launching take. Raises OSError if there is no driver."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL("libcuda.so.1")
        self._call("cuInit", 0)
        self._contexts: dict[int, ctypes.c_void_p] = {}
        self._library.cuLaunchKernel.argtypes = [
            ctypes.c_void_p,
            *[ctypes.c_uint] * 7,
            *[ctypes.c_void_p] * 3,
        ]

    def _call(self, name: str, *args: object) -> None:
        status = getattr(self._library, name)(*args)  # ctypes keeps attributes, but makes items anew
        if status:
            text = ctypes.c_char_p()
            self._library.cuGetErrorString(status, ctypes.byref(text))
            raise KernelError(
                f"the CUDA driver's `{name}` failed: {(text.value or b'unknown error').decode()}"
            )

    def enter(self, device: int) -> None:
        """Make the device's primary context, which torch uses too, current in this thread, until `leave`."""
        if device not in self._contexts:
            handle, context = ctypes.c_int(), ctypes.c_void_p()
            self._call("cuDeviceGet", ctypes.byref(handle), device)
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
            self._contexts[device] = context
        self._call("cuCtxPushCurrent_v2", self._contexts[device])

    def leave(self) -> None:
        """Make the context current that was so before `enter`."""
        self._call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def load(self, code: bytes) -> ctypes.c_void_p:
        """Load machine code into the current context. Raises KernelError if the driver refuses it."""
        module = ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), code)
        return module

    def function(self, module: ctypes.c_void_p, name: str) -> ctypes.c_void_p:
        """Return a kernel of a loaded module, itself loaded: a first launch may then be captured into a graph."""
        function = ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        if hasattr(self._library, "cuFuncLoad"):  # CUDA 12.4 and later
            self._call("cuFuncLoad", function)
        return function

    def launch(
        self, function: ctypes.c_void_p, launch: Launch, stream: int, parameters: ctypes.Array[Any]
    ) -> None:
        """Start a kernel that takes one structure by value."""
        self._call(
            "cuLaunchKernel", function, *launch.grid, launch.threads, 1, 1, 0, stream, parameters, None
        )


@functools.cache
def driver() -> Driver:
    """Return the CUDA driver. Raises KernelError if it cannot be loaded."""
    try:
        return Driver()
    except OSError as error:
        raise KernelError(f"the CUDA driver cannot be loaded ({error}); install the NVIDIA driver") from error


# Modules


@dataclass(frozen=True, slots=True)
class Module:
    """One source's kernels on one device, by their names."""

    name: str
    device: int
    functions: dict[str, ctypes.c_void_p]

    def launch(self, call: Call[Any], *launches: Launch) -> None:
        """Start kernels one after the other on torch's current stream. Empty grids are left out."""
        stream = torch.cuda.current_stream(self.device).cuda_stream
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(call.args))
        cuda = driver()
        cuda.enter(self.device)
        try:
            for launch in launches:
                if all(launch.grid):
                    function = self.functions[kernel_name(self.name, launch.kernel, call.args.dtype)]
                    cuda.launch(function, launch, stream, parameters)
        finally:
            cuda.leave()


def kernel_name(source: str, kernel: str, dtype: int) -> str:
    """Return a kernel's name in the CUDA source: all kernels but `fold` exist once per storage type."""
    return f"{source}_fold" if kernel == "fold" else f"{source}_{kernel}_{_SUFFIX[dtype]}"


def grid(channels: int, chunks: int, rows: int, width: int = BLOCK) -> tuple[int, int, int]:
    """Return the blocks of a launch: chunks of time, blocks of `width` channels, rows. Blocks loop over the rows that a grid cannot have."""
    return chunks, -(-channels // width), min(rows, _MOST_ROWS)


def module(name: str, device: torch.device, **macros: int) -> Module:
    """Return the kernels of `<name>.cu`, compiled with `macros`, ready on `device`.

    Raises KernelError if they cannot be compiled or loaded.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    return _load(name, index, tuple(macros.items()))


@functools.cache
def _load(name: str, device: int, macros: tuple[tuple[str, int], ...]) -> Module:
    compiler = nvrtc()
    if compiler is None:
        raise KernelError(_NO_NVRTC)
    build = Build.of(name, torch.cuda.get_device_capability(device), dict(macros), compiler)
    return opened(build, device, KERNELS[name], compiler)


def opened(build: Build, device: int, kernels: tuple[str, ...], compiler: Nvrtc) -> Module:
    """Load a build and all its kernels on a device."""
    names = {kernel_name(build.name, kernel, dtype) for kernel in kernels for dtype in range(len(_SUFFIX))}
    driver().enter(device)
    try:
        handle = load(build, compiler, driver())
        return Module(build.name, device, {name: driver().function(handle, name) for name in sorted(names)})
    finally:
        driver().leave()


def load(build: Build, compiler: Nvrtc, driver: Driver) -> ctypes.c_void_p:
    """Load a build into the current context. If the kept machine code is refused, compile it anew, once."""
    try:
        return driver.load(build.cubin(compiler))
    except KernelError as error:
        warnings.warn(f"kept kernels `{build.file}` are compiled anew: {error}", RuntimeWarning, stacklevel=2)
        return driver.load(build.cubin(compiler, fresh=True))


@functools.cache
def missing() -> str:
    """Say why the CUDA form cannot be used, and what to type; empty if it can. Compiles and loads the smallest op to find out."""
    if torch.version.hip:
        return "this torch is built for ROCm, and the kernels are CUDA; set `NIH_KERNELS=torch`"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device; install a CUDA build of torch and the NVIDIA driver, or set `NIH_KERNELS=auto`"
    if nvrtc() is None:
        return _NO_NVRTC
    try:
        _load("causal_conv1d", torch.cuda.current_device(), (("NIH_TAPS", 4),))
    except KernelError as error:
        return str(error)
    return ""


def describe() -> str:
    """Name the compiler and the GPU, for reports: `CUDA, NVRTC 13.0.88, sm_90`."""
    compiler = nvrtc()
    version = "none" if compiler is None else dotted(compiler.version)
    major, minor = torch.cuda.get_device_capability()
    return f"CUDA, NVRTC {version}, sm_{major}{minor}"
