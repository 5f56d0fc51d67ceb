"""Text of a Hugging Face dataset, for haystacks: `NAME[:split:column]`, by the library `datasets` (extra `nih[hf]`).

NAME is a dataset of the hub (`owner/name`), or a folder or file that `datasets` can read. Without split and column they are `train` and
`text`. Code that a dataset brings is not run.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nih.errors import HaystackError, UnknownName

_READERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".txt": "text"}


def column(spec: str) -> list[str]:
    """Return all texts of a column, in order. Raises HaystackError, and UnknownName for a split or column that is not there."""
    name, _, rest = spec.partition(":")
    split, _, wanted = rest.partition(":")
    if not name or ":" in wanted:
        raise HaystackError(
            f"haystack `hf:{spec}` is not `hf:NAME` or `hf:NAME:split:column`; type for example `hf:owner/name:train:text`"
        )
    if find_spec("datasets") is None:
        raise HaystackError(f"haystack `hf:{spec}` needs the library datasets; type `pip install 'nih[hf]'`")
    parts = _load(name, spec)
    split, wanted = split or "train", wanted or "text"
    if split not in parts:
        raise UnknownName.of(f"split of dataset `{name}`", split, parts)
    rows = parts[split]
    if wanted not in rows.column_names:
        raise UnknownName.of(f"column of dataset `{name}`", wanted, rows.column_names)
    texts = list(rows[wanted])
    if not all(isinstance(text, str) for text in texts):
        raise HaystackError(
            f"column `{wanted}` of dataset `{name}` holds no text; choose another: `hf:{name}:{split}:COLUMN`"
        )
    return texts


def _load(name: str, spec: str) -> Any:
    datasets = import_module("datasets")
    path = Path(name).expanduser()
    try:
        if path.is_file():
            return datasets.load_dataset(_reader(path, spec), data_files=str(path))
        return datasets.load_dataset(str(path) if path.exists() else name)
    except HaystackError:
        raise
    except (
        Exception
    ) as error:  # the library raises dozens of unrelated classes for "not there" and "no network"
        reason = str(error).strip().partition("\n")[0]
        raise HaystackError(
            f"dataset `{name}` cannot be loaded ({type(error).__name__}: {reason}); check the name and the network, or type a folder"
        ) from error


def _reader(path: Path, spec: str) -> str:
    if path.suffix not in _READERS:
        raise HaystackError(
            f"haystack `hf:{spec}` is not a file of {', '.join(sorted(_READERS))}; convert it first"
        )
    return _READERS[path.suffix]
