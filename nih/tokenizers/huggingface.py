"""Text <-> token ids, as they stand in the middle of a text.

A prompt is put together from pieces, so a piece must not bring what belongs to the beginning of a text: no BOS, no
invented leading space, no end token. Nor may text that merely spells a special token become one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nih.errors import ModelError, reason
from nih.han import join_han
from nih.protocols import Tokenizer
from nih.tokenizers.byte import BYTE, ByteTokenizer, valid
from nih.tokenizers.chat_template import ChatTemplate
from nih.tokenizers.tiktoken import names_encoding, open_encoding
from nih.types import ChatText, TokenIds

_MOST_ADDED = 1000
"""More special tokens than kinds of models bring along."""
_ANCHOR = "\n"
"""Text that a piece is put behind where a tokenizer treats the beginning of a text in its own way."""


class HubTokenizer:
    """A tokenizer of transformers.

    With a backend of the `tokenizers` library (all but a few old or remote ones), pieces go through a copy of it whose
    rules for the beginning of a text are taken out; without one, behind an anchor whose ids are then cut off.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer = tokenizer
        self._name = name
        self._coder: _Coder = _Backend(tokenizer) if _backend_of(tokenizer) is not None else _Slow(tokenizer)
        self._special = frozenset(_special_ids(tokenizer))
        self._special_array = np.array(sorted(self._special), np.int64)
        self._opening = _opening(tokenizer)
        self._template = ChatTemplate(tokenizer, name)

    @property
    def name(self) -> str:
        """Folder, file or hub id."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the vocabulary and all rules."""
        return self._coder.fingerprint

    @property
    def opening(self) -> TokenIds:
        """What the tokenizer itself puts before a text; what it appends (T5's `</s>`) is left out."""
        return self._opening

    @property
    def special_ids(self) -> frozenset[int]:
        """BOS, EOS and the like, and every added token that is flagged special."""
        return self._special

    def encode(self, text: str) -> TokenIds:
        """Return ids (T,) in mid-text. Raises ModelError if the tokenizer cannot encode without its rules for beginnings."""
        return self._coder.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Encode each text, in one threaded call of the backend."""
        return self._coder.encode_batch(texts)

    def decode(self, ids: npt.ArrayLike) -> str:
        """Return the text of ids without clean-up of spaces; special tokens are left out."""
        values = np.asarray(ids, np.int64).reshape(-1)
        return self._coder.decode(values[~np.isin(values, self._special_array)].tolist())

    def spell(self, ids: npt.ArrayLike) -> str:
        """Text of ids as `decode` gives it, with special tokens as they are written."""
        return self._coder.spell(np.asarray(ids, np.int64).reshape(-1).tolist())

    @property
    def unknown_id(self) -> int | None:
        """Id that stands for text without a token; None for a vocabulary that spells every text."""
        unknown = self._tokenizer.unk_token_id
        return None if unknown is None else int(unknown)

    @property
    def special_words(self) -> Sequence[str]:
        """How the special tokens are written, but for the one of unknown text."""
        words = self._tokenizer.convert_ids_to_tokens(sorted(self._special - {self.unknown_id}))
        return [word for word in words if word]

    def encode_spelled(self, text: str, whole: bool = False) -> TokenIds:
        """Encode text whose special tokens are read as the tokens they are: ids (T,) in mid-text, or of a whole text but for its BOS."""
        if whole:
            return _ids(self._tokenizer(valid(text), add_special_tokens=False)["input_ids"])
        return self._coder.encode_template(valid(text))

    @property
    def eos_id(self) -> int | None:
        """Id of the token that ends a text; None if there is none."""
        eos = self._tokenizer.eos_token_id
        return eos if isinstance(eos, int) else None

    @property
    def has_template(self) -> bool:
        """Whether there is a chat template."""
        return bool(getattr(self._tokenizer, "chat_template", None))

    def conversation(self, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> TokenIds:
        """Return the ids (T,) of a whole conversation up to where the assistant speaks next.

        Raises ModelError if there is no template, or if it refuses these messages.
        """
        text = self._template.conversation(messages, options)
        return _ids(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def chat_text(self, system: str, options: Mapping[str, Any]) -> ChatText:
        """Return what the template writes around the user's and the assistant's words. Raises ModelError as `chat_frame`."""
        return self._template.around(system, options)

    def encode_frame(self, before: str, after: str) -> tuple[TokenIds, TokenIds]:
        """Return the ids of what stands before the user's words, and behind them; special tokens are parsed."""
        # The first half begins the text, so the tokenizer's own rules hold; the second stands in mid-text.
        head = _ids(self._tokenizer(before, add_special_tokens=False)["input_ids"]) if before else _ids([])
        return head, self._coder.encode_template(after)

    def chat_frame(self, system: str, options: Mapping[str, Any]) -> tuple[TokenIds, TokenIds]:
        """Return the ids before and after the user's words; `options` are variables of the template (`enable_thinking`).

        Raises ModelError if there is no template, or if it refuses the system message, leaves it out, or does not show the user's
        words exactly once.
        """
        text = self.chat_text(system, options)
        return self.encode_frame(text.before, text.after)


def open_tokenizer(
    source: str, name: str | None = None, revision: str | None = None, trust_remote_code: bool = False
) -> Tokenizer:
    """Open the tokenizer of a folder, hub id or .gguf file, `byte`, or an encoding of tiktoken; `name` is what the manifest calls it.

    Raises ModelError.
    """
    if source == BYTE:
        return ByteTokenizer()
    if names_encoding(source):
        return open_encoding(source)
    where, extra = locate(source)
    try:
        tokenizer = _from_pretrained(where, revision=revision, trust_remote_code=trust_remote_code, **extra)
        if not knows_words(tokenizer):
            raise ModelError(
                f"no tokenizer in `{source}` (it holds no vocabulary, so transformers makes an empty one); save it there with "
                "`tokenizer.save_pretrained`, or name one with `--tokenizer`, or `--tokenizer byte` for a byte-level model"
            )
        return HubTokenizer(tokenizer, name or source)
    except ModelError:
        raise
    # transformers raises nearly every built-in class for files that are missing or broken.
    except Exception as error:
        raise ModelError(
            f"no tokenizer in `{source}` ({reason(error)}); name one with `--tokenizer`, or `--tokenizer byte` "
            "for a byte-level model"
        ) from error


def knows_words(tokenizer: Any) -> bool:
    """Return whether the vocabulary holds more than added tokens and signs for a space.

    For many kinds of models transformers makes a tokenizer of a folder without its files, which knows nothing but special tokens.
    """
    if len(tokenizer) > _MOST_ADDED:  # nearly every vocabulary, and listing it takes a while
        return True
    added = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    return any(word.strip("\u2581\u0120 ") for word in tokenizer.get_vocab() if word not in added)


def _from_pretrained(where: str, **arguments: Any) -> Any:
    """Return the tokenizer of transformers; one with a backend of the `tokenizers` library also where mistral-common is installed.

    With that package, transformers reads a `tekken.json` through it, into a tokenizer that cannot encode text as plain characters.
    """
    import transformers

    if find_spec("mistral_common") is None:
        return transformers.AutoTokenizer.from_pretrained(where, **arguments)
    try:
        return transformers.AutoTokenizer.from_pretrained(where, mistral_format=False, **arguments)
    except ValueError as error:
        # A transformers that does not know the argument hands it on to the tokenizer, which refuses it.
        if "mistral_format" not in str(error):
            raise
    return transformers.TokenizersBackend.from_pretrained(where, **arguments)


def locate(source: str) -> tuple[str, dict[str, str]]:
    """Return what transformers' `from_pretrained` takes for a source: a folder or hub id, and the name of the .gguf file in it."""
    path = Path(source).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    return (str(path) if path.exists() else source), {}


class _Coder:
    """Encodes pieces and decodes ids, without the rules for the beginning of a text."""

    fingerprint: str

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        raise NotImplementedError

    def encode_template(self, text: str) -> TokenIds:
        """Return the ids of text in mid-text whose special tokens are parsed."""
        raise NotImplementedError

    def decode(self, ids: list[int]) -> str:
        raise NotImplementedError

    def spell(self, ids: list[int]) -> str:
        """Text of ids, special tokens as they are written."""
        return self.decode(ids)


class _Backend(_Coder):
    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer as RustTokenizer

        original = RustTokenizer.from_str(_backend_of(tokenizer).to_str())
        original.no_truncation()
        original.no_padding()
        text = original.to_str()
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()
        rules = _mid_text(json.loads(text))
        self._template = RustTokenizer.from_str(json.dumps(rules, ensure_ascii=False))
        plain = _without_special_words(rules, _special_ids(tokenizer))
        self._plain = RustTokenizer.from_str(json.dumps(plain, ensure_ascii=False))
        self._plain.encode_special_tokens = True
        self._spaced = rules["model"]["type"] == "WordPiece"

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        encodings = self._plain.encode_batch_fast([valid(text) for text in texts], add_special_tokens=False)
        return [_ids(encoding.ids) for encoding in encodings]

    def encode_template(self, text: str) -> TokenIds:
        return _ids(self._template.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        text: str = self._plain.decode(ids, skip_special_tokens=False)
        # WordPiece has no token for white space: what stands between Han characters was put there by decoding.
        return join_han(text) if self._spaced else text

    def spell(self, ids: list[int]) -> str:
        # The plain vocabulary holds special tokens under other names.
        text: str = self._template.decode(ids, skip_special_tokens=False)
        return join_han(text) if self._spaced else text


class _Slow(_Coder):
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._anchor = self._raw(_ANCHOR, split_special_tokens=True)
        self._anchor_text = self._text(self._anchor)
        rules = (
            type(tokenizer).__name__,
            sorted(tokenizer.get_vocab().items()),
            sorted(_special_ids(tokenizer)),
        )
        self.fingerprint = hashlib.sha256(repr(rules).encode("utf-8", "surrogatepass")).hexdigest()

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        return [self._behind_anchor(valid(text), split_special_tokens=True) for text in texts]

    def encode_template(self, text: str) -> TokenIds:
        return self._behind_anchor(text, split_special_tokens=False)

    def decode(self, ids: list[int]) -> str:
        return self._text([*self._anchor, *ids]).removeprefix(self._anchor_text)

    def _behind_anchor(self, text: str, split_special_tokens: bool) -> TokenIds:
        ids = self._raw(_ANCHOR + text, split_special_tokens) if text else self._anchor
        if ids[: len(self._anchor)] == self._anchor:
            return _ids(ids[len(self._anchor) :])
        # The text begins with what the anchor melts into (a second line break); then nothing is invented before it.
        alone = self._raw(text, split_special_tokens)
        if self._text(alone) == text:
            return _ids(alone)
        raise ModelError(
            f"the tokenizer {type(self._tokenizer).__name__} cannot encode a piece of text by itself: what "
            f"stands before changes it ({text[:20]!r}); name another with `--tokenizer`"
        )

    def _raw(self, text: str, split_special_tokens: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=split_special_tokens
        )
        return ids

    def _text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


def _ids(ids: Iterable[int]) -> TokenIds:
    return np.array(ids, np.int32)


def _backend_of(tokenizer: Any) -> Any:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend if hasattr(backend, "to_str") else None


def _special_ids(tokenizer: Any) -> set[int]:
    added = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


def _opening(tokenizer: Any) -> TokenIds:
    probe = "a"
    bare = list(tokenizer(probe, add_special_tokens=False)["input_ids"])
    full = list(tokenizer(probe, add_special_tokens=True)["input_ids"])
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return _ids(full[:start])
    raise ModelError(
        f"the tokenizer {type(tokenizer).__name__} encodes {probe!r} as {bare} and with special tokens as {full}, "
        "so what it puts before a text is unclear; name another with `--tokenizer`"
    )


def _mid_text(rules: dict[str, Any]) -> dict[str, Any]:
    """Return the rules of a `tokenizers` JSON without those for the two ends of a text.

    These are sentencepiece's dummy prefix (Metaspace, a Prepend normaliser, and ByteLevel's add_prefix_space), its
    counterpart in the decoder (which would drop a leading space), and stripping.
    """
    return rules | {
        part: _middle(rules.get(part), part) for part in ("normalizer", "pre_tokenizer", "decoder")
    }


def _middle(rule: Any, part: str) -> Any:
    if rule is None:
        return None
    match rule["type"]:
        case "Sequence":
            key = next(k for k in ("normalizers", "pretokenizers", "decoders") if k in rule)
            inner = [m for m in (_middle(r, part) for r in rule[key]) if m is not None]
            return rule | {key: inner}
        case "Metaspace":
            return rule | {"prepend_scheme": "never"}
        case "ByteLevel" if part == "pre_tokenizer":
            return rule | {"add_prefix_space": False}
        case "Prepend" | "Strip" if part == "normalizer":
            return None
        case "Strip" if part == "decoder":
            return None
    return rule


def _without_special_words(rules: dict[str, Any], special: set[int]) -> dict[str, Any]:
    """Return rules whose vocabulary holds special tokens under names that no text spells.

    `encode_special_tokens` keeps them from being looked for before the model runs; but a Unigram or word model finds
    `</s>` among its own pieces all the same. BPE does not: no merge leads there.
    """
    model = rules["model"]
    if model["type"] == "Unigram":
        pieces = [
            [_unspelt(i) if i in special else piece, score] for i, (piece, score) in enumerate(model["vocab"])
        ]
        model = model | {"vocab": pieces}
    elif model["type"] in ("WordLevel", "WordPiece"):
        special = special - {model["vocab"].get(model.get("unk_token"))}
        model = model | {
            "vocab": {_unspelt(i) if i in special else word: i for word, i in model["vocab"].items()}
        }
    else:
        return rules
    added = [t | {"content": _unspelt(t["id"])} if t["id"] in special else t for t in rules["added_tokens"]]
    return rules | {"model": model, "added_tokens": added}


def _unspelt(token: int) -> str:
    return f"\uf8ff{token}\uf8ff"
