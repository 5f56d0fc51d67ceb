"""Embeddings of a local model: means of its hidden states, one text at a time, from a folder that is read and never run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from nih.errors import UsageError
from nih.retrieve import open_retriever
from nih.retrieve.dense import Dense
from nih.run.evaluate import evaluate

WORDS = "the sky is blue grass green marta hid brass compass in velmoor where did hide what key".split()
PASSAGES = ["the sky is blue", "the grass is green", "marta hid the brass compass in velmoor", "what key", ""]
MOST = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights."""
    folder = tmp_path_factory.mktemp("bert")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast: Any = transformers.PreTrainedTokenizerFast
    fast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=MOST, initializer_range=0.5,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def copy(model: Path, tmp_path: Path, **files: object) -> Path:
    """The folder with further JSON files; `1_Pooling` stands for the config in it."""
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name, value in files.items():
        path = tmp_path / ("1_Pooling/config.json" if name == "pooling" else f"{name}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return tmp_path


def embedded(folder: Path, text: str, first: bool = False) -> Any:
    """Straight from the definition."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    pooled = (states[0] if first else states.mean(0)).numpy()
    return pooled / np.linalg.norm(pooled)


def test_scores_are_cosines_of_mean_states(model: Path) -> None:
    question = "where did marta hide the brass compass"
    expected = [embedded(model, text) @ embedded(model, question) for text in PASSAGES]
    np.testing.assert_allclose(Dense(str(model), 2).scores(question, PASSAGES), expected, atol=1e-5)


def test_a_score_does_not_depend_on_its_company_and_one_of_itself_is_1(model: Path) -> None:
    retriever, question = Dense(str(model), 2), PASSAGES[2]
    together = retriever.scores(question, PASSAGES)
    alone = [Dense(str(model), 2).scores(question, [text])[0] for text in PASSAGES]
    assert together.tolist() == alone
    assert together[2] == pytest.approx(1, abs=1e-6) and int(np.argmax(together)) == 2


def test_the_folder_says_how_states_are_pooled_and_what_stands_before_texts(
    model: Path, tmp_path: Path
) -> None:
    prompts = {"prompts": {"query": "what ", "document": "the "}}
    folder = copy(model, tmp_path, pooling={"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, config_sentence_transformers=prompts)  # fmt: skip
    expected = embedded(folder, "the sky is blue", first=True) @ embedded(folder, "what key", first=True)
    assert Dense(str(folder), 1).scores("key", ["sky is blue"])[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"pooling": {"pooling_mode_max_tokens": True}}, "pools by `max`"),
        ({"pooling": {"pooling_mode": "lasttoken"}}, "pools by `lasttoken`"),
        ({"pooling": {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}}, "pools by `cls and mean`"),
        ({"pooling": "{"}, "damaged"),
        ({"pooling": []}, "damaged"),
        ({"modules": [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Dense"}]}, "a module `Dense`"),
    ],
)  # fmt: skip
def test_what_is_not_computed_here_is_refused(
    model: Path, tmp_path: Path, files: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        Dense(str(copy(model, tmp_path, **files)), 1).scores("key", ["sky"])


def test_a_folder_without_a_vocabulary_embeds_nothing(model: Path, tmp_path: Path) -> None:
    folder = copy(model, tmp_path)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UsageError, match="holds no vocabulary of a tokenizer"):
        Dense(str(folder), 1).scores("key", ["sky"])


def test_code_of_the_folder_never_runs(model: Path, tmp_path: Path) -> None:
    folder = copy(model, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "unheard",
        "architectures": ["Own"],
        "auto_map": {"AutoModel": "own.Own", "AutoConfig": "own.Own"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(UsageError, match=r"cannot be loaded.*give another model"):
        Dense(str(folder), 1).scores("key", ["sky"])
    assert not (folder / "ran").exists()


def test_a_folder_without_safetensors_is_refused(model: Path, tmp_path: Path) -> None:
    folder = copy(model, tmp_path)
    os.rename(folder / "model.safetensors", folder / "pytorch_model.bin")
    with pytest.raises(UsageError, match=r"no config\.json with \.safetensors"):
        Dense(str(folder), 1)


@pytest.mark.parametrize(
    ("part", "is_fit"), [("encoder.layer.1.output.dense.weight", False), ("pooler.dense.weight", True)]
)
def test_tensors_that_are_missing_are_not_made_up(
    model: Path, tmp_path: Path, part: str, is_fit: bool
) -> None:
    """transformers fills them with random numbers; only what is not asked may be missing."""
    folder = copy(model, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors[part]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    if is_fit:
        assert np.array_equal(
            Dense(str(folder), 2).scores("key", PASSAGES), Dense(str(model), 2).scores("key", PASSAGES)
        )
    else:
        with pytest.raises(UsageError, match=rf"lacks 1 of the model's tensors \(`{re.escape(part)}`"):
            Dense(str(folder), 2).check()


@pytest.mark.parametrize("damage", ["cut", "header", "pooling"])
def test_a_damaged_model_is_told_before_the_run_begins_however_short_its_contexts_are(
    model: Path, tmp_path: Path, damage: str
) -> None:
    """Contexts of one passage are read whole, so nothing of them would be embedded."""
    (tmp_path / "damaged").mkdir()
    folder = copy(
        model, tmp_path / "damaged", **({"pooling": {"pooling_mode": "max"}} if damage == "pooling" else {})
    )
    weights = (folder / "model.safetensors").read_bytes()
    spoilt = {"cut": weights[: len(weights) // 2], "header": b"\xff" * 64 + weights[64:], "pooling": weights}[
        damage
    ]
    (folder / "model.safetensors").write_bytes(spoilt)
    out = tmp_path / "run"
    asked: dict[str, Any] = {
        "model": "echo",
        "lengths": "512",
        "depths": "0",
        "trials": 1,
        "out": out,
        "quiet": True,
    }
    with pytest.raises(UsageError, match=r"^--retrieve: `.*damaged` [^\n]*$"):
        evaluate(**asked, retrieve=f"dense:{folder}:1000")
    assert not out.exists()
    assert evaluate(**asked, retrieve=f"dense:{model}:1000").exit_state == "done"


def test_the_fingerprint_is_that_of_the_files(model: Path, tmp_path: Path) -> None:
    folder = copy(model, tmp_path)
    before = open_retriever(f"dense:{folder}:3")
    assert before.fingerprint == Dense(str(model), 1).fingerprint and before.count == 3
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    assert Dense(str(folder), 3).fingerprint != before.fingerprint


def test_a_text_that_is_longer_than_the_model_reads_is_told(model: Path) -> None:
    retriever = Dense(str(model), 1)
    retriever.scores("what key", ["the sky is blue"])
    assert not retriever.notes
    retriever.scores("what key", ["the sky " * MOST, "the grass " * MOST, "the sky " * MOST])
    notes = list(retriever.notes)
    assert len(notes) == 1 and f"2 passages have more than the {MOST} tokens" in notes[0]
