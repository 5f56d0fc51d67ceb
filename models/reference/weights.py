"""The weights of a reference model: no file is larger than a repository should hold."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from safetensors.torch import load_file
from torch import Tensor

from nih.models._loading import Source

MOST_BYTES = 2_000_000
"""Of a file; larger weights are written as shards and an index that names them, as the hub has it."""
_INDEX = "model.safetensors.index.json"


def read(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a folder, from one file or from shards. Raises ModelError where they are not all there."""
    return {
        name: tensor
        for file in Source(str(folder), folder).weight_files()
        for name, tensor in load_file(file).items()
    }


def write(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write model.safetensors, or shards and their index, in place of what was there.

    A killed process leaves whole files, and never shards without an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".weights-") as kept:
        new = Path(kept)
        save_torch_state_dict(dict(tensors), new, max_shard_size=MOST_BYTES, metadata={"format": "pt"})
        names = sorted((file.name for file in new.iterdir()), key=lambda name: name != _INDEX)
        for name in names:
            (new / name).chmod(0o644)
            os.replace(new / name, folder / name)
    for old in {*folder.glob("model*.safetensors"), folder / _INDEX}:
        if old.name not in names:
            old.unlink(missing_ok=True)
