"""Models of transformers as sessions: the laws over many architectures, and what a folder, device or option can get wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import tiny
from tests.laws import LAWS, Subject

FAITHFUL = [name for name in tiny.CONFIGS if name not in ("mamba", "jamba", "recurrent_gemma")]
"""Architectures whose own cached prefill is right in transformers."""


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", FAITHFUL)
def test_laws(name: str, law: Callable[[Subject], None]) -> None:
    law(tiny.subject(name))
