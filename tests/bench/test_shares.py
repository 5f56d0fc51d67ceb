"""What a forward pass is made of: the parts are parts, and the networks are those that the models run."""

from __future__ import annotations

import pytest
import torch

from nih.bench.kernel_ops import Case
from nih.bench.shares import LAYERS, shares


@pytest.mark.parametrize("op", ["rwkv7", "mamba2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parts_add_up_to_no_more_than_the_whole(op: str, dtype: torch.dtype) -> None:
    parts = shares(Case(op, 1, 4096, 128, dtype))
    assert parts is not None
    assert min(parts) > 0
    assert sum(parts) < 1
    numbers = [int(word.rstrip("%")) for word in str(parts).replace(",", "").split() if word.endswith("%")]
    assert sum(numbers) in (99, 100, 101)
    assert LAYERS > 1, "RWKV-7's first layer has no value residual"


def test_ops_without_a_family_have_none() -> None:
    assert shares(Case("causal_conv1d", 1, 4096, 128)) is None
