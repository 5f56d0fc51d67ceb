"""Loading a model of transformers: its weights, its tokenizer, and quietly.

`quiet_loading` replaces a function inside transformers for as long as it lasts: the progress bar of the .gguf reader is the
one that does not ask whether it may be shown. This is the only place that changes a library.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import modeling_gguf_pytorch_utils

from nih.errors import ModelError, reason
from nih.models._hf_config import Options, auto_class
from nih.protocols import Tokenizer
from nih.tokenizers.byte import ByteTokenizer
from nih.tokenizers.huggingface import locate, open_tokenizer

log = logging.getLogger(__name__)
_library_log: Any = transformers.logging
_gguf: Any = modeling_gguf_pytorch_utils

_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "spiece*", "merges*")
_BYTES = 256
"""Vocabulary of a model that reads bytes and ships no tokenizer files."""


def find_tokenizer(source: str, name: str, options: Options, config: Any) -> Tokenizer:
    if options.tokenizer is not None:
        return open_tokenizer(options.tokenizer, options.tokenizer, None, options.trust_remote_code)
    folder = Path(source).expanduser()
    bytes_only = config.get_text_config(decoder=True).vocab_size == _BYTES
    if bytes_only and folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        return ByteTokenizer()
    return open_tokenizer(source, name, options.revision, options.trust_remote_code)


def load(
    source: str,
    options: Options,
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    part: bool = False,
) -> Any:
    """Load the weights of a config's model onto a device. Raises ModelError.

    part: whether the config has fewer layers than the files, whose other tensors are then left out.
    """
    where, extra = locate(source)
    if extra:
        print(f"reading {source}, whose weights are converted to {dtype}", file=sys.stderr)
    try:
        with quiet_loading():
            model, report = auto_class(config).from_pretrained(
                where,
                dtype=dtype,
                revision=options.revision,
                trust_remote_code=options.trust_remote_code,
                attn_implementation=options.attn_implementation,
                output_loading_info=True,
                device_map=None if device.type == "cpu" else {"": device},
                **(extra or {"config": config}),
            )
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the weights of `{source}` do not fit into the memory of `{device}` in {dtype}; "
            "type a smaller --dtype or `--device cpu`"
        ) from error
    # As above: nearly every built-in class.
    except Exception as error:
        raise ModelError(f"cannot load the weights of `{source}` ({reason(error)})") from error
    if lacking := sorted(report["missing_keys"]):
        # transformers would go on with random numbers in their place.
        raise ModelError(
            f"the weights of `{source}` lack {len(lacking)} of the model's tensors (`{lacking[0]}` ...); "
            "the files do not belong to this config.json"
        )
    if (unused := sorted(report["unexpected_keys"])) and not part:
        log.warning(
            "%d tensors in the weights of %s are not the model's (%s ...)", len(unused), source, unused[0]
        )
    return model.eval().requires_grad_(False)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers from printing progress bars and reports: we report errors and unused tensors ourselves."""
    bars, verbosity = _library_log.is_progress_bar_enabled(), _library_log.get_verbosity()
    bar = _gguf.tqdm
    _library_log.disable_progress_bar()
    _library_log.set_verbosity_error()
    _gguf.tqdm = partial(bar, disable=True)  # the one bar that does not ask whether it may be shown
    try:
        yield
    finally:
        _gguf.tqdm = bar
        _library_log.set_verbosity(verbosity)
        if bars:
            _library_log.enable_progress_bar()


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers loads: safetensors where there are any."""
    for pattern in _WEIGHT_FILES:
        if files := sorted(folder.glob(pattern)):
            return files
    return []
