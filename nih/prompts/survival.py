"""What becomes of a text on its way through a tokenizer and back: unknown tokens, lost case, accents and line ends, added spaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nih.han import join_han
from nih.protocols import Tokenizer
from nih.types import TokenIds


@dataclass
class Survival:
    """Follows texts through one tokenizer, and keeps what the user should know of them."""

    tokenizer: Tokenizer
    changed: dict[str, str] = field(default_factory=dict)
    """Answers that come back in other words, with those words."""

    def answer(self, text: str, cased: bool = False) -> str | None:
        """Return an expected answer as a model with this tokenizer can say it; None if it cannot.

        The text stays as it is where only its case or the spaces between Han characters differ, because most scores do not count these;
        `cased` is for those that do.
        """
        ids = self.tokenizer.encode(f" {text}")
        back = self.tokenizer.decode(ids).strip()
        if back == text.strip():
            return text
        # A byte without a token leaves a character that cannot be read.
        if self.unknown(ids) or not back or "\ufffd" in back:
            return None
        if not cased and join_han(back).lower() == join_han(text.strip()).lower():
            return text
        self.changed[text] = back
        return back

    def unknown(self, ids: TokenIds) -> int:
        """Return how many of the tokens stand for text that the vocabulary does not have."""
        token = getattr(self.tokenizer, "unknown_id", None)
        return 0 if token is None else int(np.count_nonzero(ids == token))

    def notes(self, texts: Iterable[tuple[str, npt.NDArray[np.int32]]]) -> Iterator[str]:
        """Yield sentences for the user; `texts` are those that were asked, by what they are, as ids (T,)."""
        name = self.tokenizer.name
        for what, ids in texts:
            if count := self.unknown(ids):
                yield (
                    f"{count / len(ids):.2%} of the tokens of {what} are unknown to the vocabulary of `{name}` ({count:,} of {len(ids):,}): "
                    "the model cannot read what stood there"
                )
        if self.changed:
            text, back = next(iter(self.changed.items()))
            yield (
                f"`{name}` writes {len(self.changed)} of the expected answers in its own way, and so they are expected: `{back}` for `{text}`"
            )
        if "\n" not in self.tokenizer.decode(self.tokenizer.encode("a\nb")):
            yield f"`{name}` has no token for a line end: the prompts have none, and no answer ends at one"
