"""Sentence embeddings of a local model: passages whose mean hidden state points where that of the question does.

The folder is one of transformers, or of sentence-transformers with a single pooling: `1_Pooling/config.json` says whether hidden states are
averaged (the default) or the first one is taken, and `prompts` in `config_sentence_transformers.json` says which words stand before a
question and before a passage. Nothing is fetched, no code of the folder runs, and only safetensors are read. Passages are embedded in
float32 on the CPU, one by one, so that an embedding does not depend on its company.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from nih.errors import UsageError, reason
from nih.reading import MOST_BYTES_OF_CONFIG, open_bytes, parse_json, read_bytes
from nih.text import cut, sanitize
from nih.tokenizers.huggingface import knows_words

_WEIGHTS = "*.safetensors"
_READ = (_WEIGHTS, "*.json", "*.txt", "*.model", "1_Pooling/*.json")
"""Files that decide the embeddings."""
_MODULES = {"Transformer", "Pooling", "Normalize"}
"""Of sentence-transformers; another one would compute something that is not computed here."""
_MODE = re.compile(r"pooling_mode_[a-z]")
_TAKES: dict[str, Literal["mean", "first"]] = {"mean": "mean", "cls": "first"}
_KEPT = 20_000
"""Embeddings that are kept for passages that recur, as those before the needle do at each depth: some 30 MB at a width of 384."""

Vector = npt.NDArray[np.float32]


class Pooling(NamedTuple):
    """How a folder wants texts to be embedded."""

    takes: Literal["mean", "first"] = "mean"
    question: str = ""
    passage: str = ""


class Dense:
    """Reads the `count` passages whose embeddings have the greatest cosine with the question's. Raises UsageError for a folder that
    holds no such model."""

    def __init__(self, model: str, count: int) -> None:
        self.count = count
        self.name = f"dense:{model}:{count}"
        self._folder = Path(model).expanduser()
        if not os.path.isdir(self._folder):  # also where it may not be looked at
            raise self._unfit("is no folder; download the model, and give the folder that holds it")
        if not any(self._folder.glob(_WEIGHTS)) or not os.path.isfile(self._folder / "config.json"):
            raise self._unfit(
                "holds no config.json with .safetensors of a model; convert its weights, or give another folder"
            )
        self._known: OrderedDict[str, Vector] = OrderedDict()
        self._cut: set[str] = set()

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files that decide the embeddings. Raises UsageError for a file that cannot be read."""
        digest = hashlib.sha256()
        for path in sorted({path for pattern in _READ for path in self._folder.glob(pattern)}):
            try:
                digest.update(f"\0{path.relative_to(self._folder)}\0{path.stat().st_size}\0".encode())
                with open_bytes(path) as file:
                    while part := file.read(1 << 20):
                        digest.update(part)
            except OSError as error:
                raise self._unfit(f"cannot be read: {error.strerror} (`{path.name}`)") from error
        return f"dense-1-{digest.hexdigest()}"

    def described(self) -> dict[str, str]:
        """Return what run.json says of the retriever."""
        return {"name": self.name, "fingerprint": self.fingerprint, "pooling": self._pooling.takes}

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence if texts were longer than the model reads."""
        if not self._cut:
            return ()
        most = self._loaded[2]
        return (
            f"--retrieve {self.name}: {len(self._cut)} passages have more than the {most} tokens that the model reads, so they are found by their beginning",
        )

    def check(self) -> None:
        """Load the model. Raises UsageError if it cannot be loaded, or embeds otherwise than is computed here."""
        self._embedded(self._pooling.question)

    def scores(self, question: str, passages: Sequence[str]) -> Vector:
        """Return the cosine (P,) of each passage with the question. Raises UsageError if the model cannot be loaded."""
        asked = self._embedded(self._pooling.question + question)
        texts = (self._pooling.passage + passage for passage in passages)
        return np.array([self._embedded(text) @ asked for text in texts], np.float32)

    def _embedded(self, text: str) -> Vector:
        """Return the embedding (D,) of a text, of length 1."""
        if text not in self._known:
            self._known[text] = self._embed(text)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return self._known[text]

    def _embed(self, text: str) -> Vector:
        import torch

        tokenizer, model, most = self._loaded
        ids = tokenizer(text, return_tensors="pt", verbose=False)["input_ids"]
        if ids.shape[1] > most:
            self._cut.add(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest())
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=most)["input_ids"]
        if not ids.shape[1]:
            return np.zeros(model.config.hidden_size, np.float32)
        with torch.inference_mode():
            states = model(input_ids=ids).last_hidden_state[0].float()
        pooled: Vector = (states.mean(0) if self._pooling.takes == "mean" else states[0]).numpy()
        return pooled / max(float(np.linalg.norm(pooled)), 1e-12)

    @cached_property
    def _loaded(self) -> tuple[Any, Any, int]:
        """The tokenizer, the model, and the most tokens that it reads at once. Raises UsageError."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._folder, **where)
            model, report = AutoModel.from_pretrained(
                self._folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **where
            )
        # Nearly every built-in class: what can be wrong with a folder of somebody else's.
        except Exception as error:
            own = (
                "it runs Python code of its own, which no retriever may"
                if "custom code" in str(error)
                else reason(error)
            )
            raise self._unfit(f"cannot be loaded: {own}; give another model") from error
        # What pools inside the model is not asked, and many files lack it.
        if lacking := sorted(name for name in report["missing_keys"] if "pooler" not in name.split(".")):
            raise self._unfit(
                f"lacks {len(lacking)} of the model's tensors (`{lacking[0]}` ...), for which it would embed by random numbers; "
                "download it anew, or give another folder"
            )
        model.eval()
        if not knows_words(tokenizer):
            raise self._unfit(
                "holds no vocabulary of a tokenizer, so it would embed no words; add the tokenizer's files, or give another folder"
            )
        if getattr(model.config, "is_encoder_decoder", False):
            raise self._unfit(
                "is a model of two parts, which gives a text no hidden states of its own; give an encoder"
            )
        most = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
        # RoBERTa's positions begin behind that of its padding.
        spare = (
            (getattr(model.config, "pad_token_id", None) or 0) + 1
            if "roberta" in model.config.model_type
            else 0
        )
        return tokenizer, model, min(int(most) - spare, int(min(tokenizer.model_max_length, 1 << 30)))

    @cached_property
    def _pooling(self) -> Pooling:
        """What a folder of sentence-transformers says; the mean for any other. Raises UsageError for what is not computed here."""
        modules = self._json("modules.json", list)
        kinds = [
            str(each.get("type", "")).rpartition(".")[2] for each in modules if isinstance(each, Mapping)
        ]
        if strange := [kind for kind in kinds if kind not in _MODULES]:
            raise self._unfit(
                f"embeds by a module `{cut(strange[0], 40)}`, which nih does not have; give another model"
            )
        pooling = self._json("1_Pooling/config.json", dict)
        modes = {key.split("_")[2] for key, value in pooling.items() if _MODE.match(key) and value is True}
        modes |= {str(pooling["pooling_mode"])} if "pooling_mode" in pooling else set()
        if len(modes) > 1 or not modes <= _TAKES.keys():
            raise self._unfit(
                f"pools by `{cut(' and '.join(sorted(modes)), 60)}`, and nih by the mean or by the first token; give another model"
            )
        prompts = self._json("config_sentence_transformers.json", dict).get("prompts")
        said = dict(self._texts(prompts)) if isinstance(prompts, Mapping) else {}
        return Pooling(
            _TAKES[next(iter(modes), "mean")],
            said.get("query", ""),
            said.get("document", said.get("passage", "")),
        )

    def _texts(self, values: Mapping[Any, Any]) -> Iterator[tuple[str, str]]:
        return (
            (key, value) for key, value in values.items() if isinstance(key, str) and isinstance(value, str)
        )

    def _json(self, name: str, kind: type[Any]) -> Any:
        """Return the value of a JSON file of the folder; an empty one if there is none. Raises UsageError."""
        path = self._folder / name
        if not os.path.exists(path):
            return kind()
        try:
            value = parse_json(read_bytes(path, MOST_BYTES_OF_CONFIG))
        except (OSError, ValueError) as error:
            raise self._unfit(f"cannot be read: `{name}` is damaged; download it again") from error
        if not isinstance(value, kind):
            raise self._unfit(f"cannot be read: `{name}` is damaged; download it again")
        return value

    def _unfit(self, why: str) -> UsageError:
        return UsageError(f"--retrieve: `{sanitize(str(self._folder), lines=False)}` {why}")
