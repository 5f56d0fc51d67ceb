"""Retrievers: what `--retrieve` finds in a context for a question. `bm25:4` reads four passages; `dense:FOLDER:4` finds them by the
sentence embeddings of a local model.
"""

from __future__ import annotations

from nih.errors import UsageError
from nih.protocols import Retriever
from nih.text import sanitize

_MOST = 1_000_000
_TYPE = "type for example `--retrieve bm25:4`, or `--retrieve dense:FOLDER:4`"


def open_retriever(spec: str) -> Retriever:
    """Return the retriever that `--retrieve` means. Raises UsageError."""
    kind, _, rest = spec.partition(":")
    model, colon, count = rest.rpartition(":")
    if kind == "bm25" and not colon:
        from nih.retrieve.bm25 import Bm25

        return Bm25(_count(spec, count))
    if kind == "dense" and model:
        from nih.retrieve.dense import Dense

        return Dense(model, _count(spec, count))
    raise UsageError(
        f"--retrieve `{sanitize(spec, lines=False)[:80]}` is neither `bm25:K` nor `dense:FOLDER:K`; {_TYPE}"
    )


def _count(spec: str, typed: str) -> int:
    if not (
        typed.isascii() and typed.isdigit() and typed[0] != "0" and len(typed) < 10 and int(typed) <= _MOST
    ):
        raise UsageError(
            f"--retrieve `{sanitize(spec, lines=False)[:80]}` does not say how many passages are read, from 1 to {_MOST}; {_TYPE}"
        )
    return int(typed)
