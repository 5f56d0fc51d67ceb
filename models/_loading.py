"""Files, tensors and tokenizer of a model whose forward pass is our own.

A source is a folder, a file inside one, or a hub id. Tensors are read one by one, so that a model whose weights fit the
device once is never held twice.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nih.errors import ModelError, reason
from nih.protocols import Tokenizer
from nih.reading import MOST_BYTES_OF_CONFIG, parse_json, read_bytes
from nih.tokenizers.byte import ByteTokenizer
from nih.tokenizers.huggingface import HubTokenizer, open_tokenizer
from nih.tokenizers.rwkv_world import WORLD_FILE, WorldTokenizer

Change = Callable[[Tensor], Tensor]
"""Makes a tensor of a stored one: a part of it, or another order of its dimensions."""

REFERENCE = Path(__file__).parent / "reference"
"""Folder of the models that ship with the package, one folder each."""
NEOX_FILE = "20B_tokenizer.json"
"""GPT-NeoX's tokenizer under the name that RWKV-4's releases give it."""

_BYTES = 256
"""Vocabulary of a model that reads bytes and ships no tokenizer files."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "*.model")
_DESCRIPTION_FILES = ("*.json", "*.txt", "*.model", "tokenizer*")
_SAFETENSORS = ("model*.safetensors",)
_BIN = ("pytorch_model*.bin",)
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")

NOT_DESCRIBED = (AttributeError, KeyError, TypeError, ValueError, ArithmeticError)
"""What reading sizes from a config raises that lacks them, or holds other kinds of values in their places."""


@dataclass(frozen=True)
class Source:
    """Where a model's files lie on this machine."""

    name: str
    """What the user typed: a folder, a file or a hub id."""
    folder: Path
    revision: str | None = None
    """Commit of the hub's snapshot; None where the files are not a snapshot."""

    def config(self) -> dict[str, Any]:
        """Read config.json. Raises ModelError."""
        return read_json(self.folder / "config.json")

    def weight_files(self) -> list[Path]:
        """Return the safetensors files where there are any, else pytorch_model files; fetch them from the hub. Raises ModelError."""
        for patterns in (_SAFETENSORS, _BIN):
            if self.revision is not None:
                _snapshot(self.name, self.revision, patterns)
            if files := _shards(self.folder, patterns):
                return files
        raise ModelError(
            f"`{self.name}` holds no weights; expected model.safetensors or pytorch_model.bin beside its config.json"
        )


def locate(name: str, revision: str | None) -> Source:
    """Return the folder of a source; fetch a hub id's description, but not its weights. Raises ModelError."""
    path = Path(name).expanduser()
    if path.exists():
        return Source(name, path if path.is_dir() else path.parent)
    folder = _snapshot(name, revision, _DESCRIPTION_FILES)
    return Source(name, folder, folder.name)


def is_reference(name: str, adapter: str) -> bool:
    """Return whether a name stands for a model in the box: `mamba`, or `mamba-mix`."""
    return name in (adapter, f"{adapter}-mix")


def reference(name: str) -> Source:
    """Return a model that ships with the package. Raises ModelError if this installation lacks it."""
    folder = REFERENCE / name
    if not _shards(folder, _SAFETENSORS):
        raise ModelError(
            f"the reference model `{name}` is not in this installation (no weights in `{folder}`); reinstall `nih`, "
            f"or train it: `python -m nih.models.reference.train {name.replace('-', ' --')}`"
        )
    return Source(name, folder)


def _snapshot(repo: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    # The hub's client raises a dozen unrelated classes for "not there" and "no network".
    except Exception as error:
        raise ModelError(
            f"cannot fetch `{repo}` from the hub ({reason(error)}); check the name, --set revision and the network, "
            "or type a folder"
        ) from error


def _shards(folder: Path, patterns: Sequence[str]) -> list[Path]:
    found = sorted({file for pattern in patterns for file in folder.glob(pattern)})
    for index in (folder / name for name in _INDICES):
        if not index.is_file() or not any(
            Path(index.name.removesuffix(".index.json")).match(p) for p in patterns
        ):
            continue
        named = {folder / str(file) for file in read_json(index).get("weight_map", {}).values()}
        if lacking := sorted(file.name for file in named if not file.is_file()):
            raise ModelError(
                f"`{folder}` lacks the weight file `{lacking[0]}` that its {index.name} names; copy it there"
            )
        return sorted(named)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ModelError."""
    try:
        value = parse_json(read_bytes(path, MOST_BYTES_OF_CONFIG))
    except (OSError, ValueError) as error:
        raise ModelError(f"`{path}` cannot be read ({reason(error)})") from error
    if not isinstance(value, dict):
        raise ModelError(f"`{path}` holds no JSON object")
    return value


def fingerprint(files: Sequence[Path]) -> str:
    """Return the SHA-256 of one weight file, or of the list of several files' hashes."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    lines = [f"{file.name} {digest}" for file, digest in zip(files, digests, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Tensors:
    """The tensors of weight files by name, read when they are taken."""

    def __init__(
        self, whose: str, readers: Mapping[str, Callable[[], Tensor]], kind: str = "this architecture"
    ) -> None:
        """`kind`: what sentences call the architecture that the tensors are read for."""
        self._whose = whose
        self._kind = kind
        self._readers = dict(readers)
        self._left = set(readers)
        self._parameters = 0

    def __contains__(self, name: str) -> bool:
        return name in self._readers

    def names(self) -> frozenset[str]:
        """Return every name in the files."""
        return frozenset(self._readers)

    def read_as(self, kind: str) -> Tensors:
        """Return the same tensors, of which sentences say that they are read for `kind`."""
        return Tensors(self._whose, self._readers, kind)

    def renamed(self, rename: Callable[[str], str]) -> Tensors:
        """Return the same tensors under other names."""
        return Tensors(
            self._whose, {rename(name): reader for name, reader in self._readers.items()}, self._kind
        )

    def rewritten(self, rewrite: Callable[[str], Iterable[tuple[str, Change]]]) -> Tensors:
        """Return what `rewrite` says of each name: tensors under other names, and how each is made of the stored one."""
        readers = {
            new: partial(self._changed, name, reader, change)
            for name, reader in self._readers.items()
            for new, change in rewrite(name)
        }
        return Tensors(self._whose, readers, self._kind)

    def _changed(self, name: str, reader: Callable[[], Tensor], change: Change) -> Tensor:
        stored = reader()
        try:
            return change(stored)
        # torch's error for a size that cannot be split, and for a row that is not there.
        except (RuntimeError, IndexError) as error:
            raise ModelError(
                f"`{name}` of `{self._whose}` has shape {tuple(stored.shape)}, which no release of {self._kind} has"
            ) from error

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the sizes of a tensor, which does not count as taken. Raises ModelError if there is none."""
        return tuple(self._read(name).shape)

    def matrix(self, name: str) -> tuple[int, int]:
        """Return rows and columns of a tensor, which does not count as taken. Raises ModelError if there is no such matrix."""
        shape = self._read(name).shape
        if len(shape) != 2:
            raise ModelError(f"`{name}` of `{self._whose}` has shape {tuple(shape)}, not two dimensions")
        return shape[0], shape[1]

    def dtype(self, name: str) -> torch.dtype:
        """Return the storage type of a tensor, which does not count as taken. Raises ModelError."""
        return self._read(name).dtype

    def is_tied(self, head: str, embedding: str, tied: bool) -> bool:
        """Return whether the output matrix is the embedding: it then does not count as a tensor of its own. Raises ModelError.

        As in transformers, a head in the files that differs from the embedding is used even where the config ties them.
        """
        if tied and head in self and torch.equal(self._read(head), self._read(embedding)):
            self._left.discard(head)
            return True
        return tied and head not in self

    def take(
        self, name: str, *shape: int, device: torch.device, dtype: torch.dtype, ones: bool = False
    ) -> Tensor:
        """Return a tensor by name, on a device, in memory of its own. Raises ModelError if it is not there, does not hold floats,
        or has another shape; with `ones`, sizes of one may stand elsewhere than the files have them.
        """
        tensor = self._read(name)
        self._left.discard(name)
        if not tensor.is_floating_point():
            raise ModelError(
                f"`{name}` of `{self._whose}` holds {tensor.dtype}; quantised weights are not read: take a release in "
                "float32, bfloat16 or float16"
            )
        if ones and [n for n in tensor.shape if n != 1] == [n for n in shape if n != 1]:
            tensor = tensor.reshape(shape)
        if tuple(tensor.shape) != shape:
            raise ModelError(
                f"`{name}` of `{self._whose}` has shape {tuple(tensor.shape)}, but the config says {shape}; the files do not "
                "belong together"
            )
        self._parameters += tensor.numel()
        # A copy also where nothing is converted: a view into a file lies at any address, and the last bits of a matrix
        # product depend on it.
        return tensor.to(device, dtype, copy=True)

    def finish(self) -> int:
        """Return how many numbers were taken. Raises ModelError if a tensor was not: the files then describe another model."""
        if unknown := sorted(self._left):
            raise ModelError(
                f"the weights of `{self._whose}` hold {len(unknown)} tensors that {self._kind} does not have "
                f"(`{unknown[0]}` ...)"
            )
        return self._parameters

    def _read(self, name: str) -> Tensor:
        if name not in self._readers:
            raise ModelError(
                f"the weights of `{self._whose}` lack the tensor `{name}`; the files do not belong to {self._kind}"
            )
        return self._readers[name]()


def open_tensors(whose: str, files: Sequence[Path]) -> Tensors:
    """Index weight files (.safetensors; else torch's format, of which only plain tensors are read). Raises ModelError."""
    readers: dict[str, Callable[[], Tensor]] = {}
    for path in files:
        readers.update(_safetensors(path) if path.suffix == ".safetensors" else _pickled(path))
    return Tensors(whose, readers)


def _safetensors(path: Path) -> dict[str, Callable[[], Tensor]]:
    try:
        file: Any = safe_open(path, framework="pt")
        names = list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"`{path}` cannot be read as safetensors ({reason(error)})") from error
    return {name: partial(file.get_tensor, name) for name in names}


def _pickled(path: Path) -> dict[str, Callable[[], Tensor]]:
    try:
        # Files from before torch 1.6 are not zip archives and cannot be mapped.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    # A damaged archive raises nearly every built-in class.
    except Exception as error:
        raise ModelError(
            f"`{path}` cannot be read as plain tensors ({reason(error)}); other Python objects in it are never unpickled"
        ) from error
    if isinstance(loaded, dict) and "_strategy" in loaded:
        raise ModelError(
            f"`{path}` was converted by the package `rwkv` for one strategy, and may be quantised; take the release that it was made of"
        )
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise ModelError(f"`{path}` holds something else than tensors by name")
    return {str(name): tensor.detach for name, tensor in loaded.items()}


def find_tokenizer(
    source: Source, asked: str | None, name: str, vocabulary: int, trust_remote_code: bool
) -> Tokenizer:
    """Open the tokenizer that `--tokenizer` names, else the one that lies beside the weights.

    `vocabulary` is the embedding's number of rows: 256 without tokenizer files means bytes. Raises ModelError.
    """
    if asked is not None:
        return _asked_tokenizer(asked, trust_remote_code)
    folder = source.folder
    world, neox = folder / WORLD_FILE, folder / NEOX_FILE
    # Both may lie beside several .pth files; the world models are those with 2^16 rows.
    for path in (world, neox) if vocabulary == 1 << 16 else (neox, world):
        if path.is_file():
            return _asked_tokenizer(str(path), trust_remote_code)
    if any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        return open_tokenizer(
            str(folder) if source.revision is None else source.name, name, source.revision, trust_remote_code
        )
    if vocabulary == _BYTES:
        return ByteTokenizer()
    raise ModelError(
        f"no tokenizer beside the weights of `{source.name}`; name one with `--tokenizer`: {NEOX_FILE} (the Pile models, "
        f"and state-spaces' Mamba), {WORLD_FILE} (the World models), a folder or a hub id"
    )


def _asked_tokenizer(asked: str, trust_remote_code: bool) -> Tokenizer:
    path = Path(asked).expanduser()
    if path.is_dir() and (path / WORLD_FILE).is_file():
        path /= WORLD_FILE
    if path.is_file() and path.suffix == ".txt":
        return WorldTokenizer.read(path)
    if path.is_file() and path.suffix == ".json":
        return _tokenizer_file(path)
    return open_tokenizer(asked, asked, None, trust_remote_code)


def _tokenizer_file(path: Path) -> Tokenizer:
    import transformers

    fast: Any = transformers.PreTrainedTokenizerFast
    try:
        return HubTokenizer(fast(tokenizer_file=str(path)), str(path))
    # The Rust library raises plain Exception.
    except Exception as error:
        raise ModelError(f"`{path}` is no tokenizer of the `tokenizers` library ({reason(error)})") from error
