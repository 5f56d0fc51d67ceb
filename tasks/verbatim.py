"""Say the lines again that follow a line of the text itself, which is quoted.

text      (any text or program)
question  Write the 3 lines that follow this line of the text, and nothing else: / def area(self):
answer    | return self.width * self.height ...

Nothing is hidden: what is asked for stands in the text anyway, at the place nearest to the cell's depth whose line stands nowhere else in the text. Without
`--set folder=` the text is the seeded prose, a sentence in each line; with it, the lines of all files of a folder that are text, programs for example. After codeneedle (2026),
whose lessons this keeps: empty lines count nothing, and only lines that are unique are asked about.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from random import Random

from nih.errors import HaystackError, PromptError
from nih.prompts.haystack import HaystackSource, records
from nih.prompts.prose import paragraphs
from nih.prompts.task import BaseTask
from nih.reading import read_bytes
from nih.tasks._draw import check_range
from nih.types import Needle

_BYTES_A_LINE = 160
_MOST_FILES, _MOST_BYTES = 20_000, 1 << 28
"""Of a folder: a run may have been made by anyone, and name any folder."""
_SHORTEST = 12
"""Characters of a line that is quoted."""


@dataclass(frozen=True)
class Options:
    """`--set lines=...` chooses how many lines are asked for, and `folder` the files of the text."""

    lines: int = 3
    folder: str = ""


@dataclass(frozen=True)
class Verbatim(BaseTask):
    """See the module's docstring. The default score is `lcs`: the share of the lines that are said in their order."""

    options: Options
    score = "lcs"
    haystack = "own"
    stop = ("\n\n\n",)
    cased = True

    def __post_init__(self) -> None:
        """Raises UsageError."""
        check_range(self.name, 1, 100, lines=self.options.lines)

    @property
    def room(self) -> int:
        """Bytes of the lines; longer ones are not asked for."""
        return self.options.lines * _BYTES_A_LINE

    def needle(self, rng: Random) -> Needle:
        """Return a question like all others; those of a run quote the text."""
        return self._asked("the first line", ["a line"] * self.options.lines, 0)

    def quote(self, sentences: Sequence[str], near: int, last: int) -> Needle:
        """Ask about the unique line nearest to `near`, with lines that are not empty behind it. Raises PromptError."""
        lines = [sentence.removeprefix("\n") for sentence in sentences]
        seen = Counter(line.strip() for line in lines)
        for at in sorted(range(min(last, len(lines))), key=lambda at: (abs(at + 1 - near), at)):
            follow = self._following(lines[:last], at)
            line = lines[at].strip()
            if follow and seen[line] == 1 and _SHORTEST <= len(line) <= _BYTES_A_LINE:
                return self._asked(line, follow, at + 1)
        raise PromptError(
            f"the text has no line for task `verbatim` that stands nowhere else and is followed by {self.options.lines} lines of at most "
            f"{self.room} bytes together; type greater --lengths, or fewer lines with `--set lines=1`"
        )

    def _following(self, lines: Sequence[str], at: int) -> list[str]:
        """Return the lines behind `at`, as many as are asked for, empty ones left out; none if they do not fit."""
        found = [line for line in lines[at + 1 : at + 1 + 3 * self.options.lines] if line.strip()]
        found = found[: self.options.lines]
        fits = len("\n".join(found).encode()) + 1 <= self.room
        return found if len(found) == self.options.lines and fits else []

    def _asked(self, line: str, follow: Sequence[str], quotes: int) -> Needle:
        count = "line" if len(follow) == 1 else f"{len(follow)} lines"
        follows = "follows" if len(follow) == 1 else "follow"
        said = "\n".join(follow)
        return Needle(
            text="",
            question=f"\nWrite the {count} that {follows} this line of the text, and nothing else:\n{line}",
            expected=(said,),
            intro="Remember this text line by line.\n",
            avoid=("\0",),
            lead="",
            quotes=quotes,
            target=f"\n{said}",
        )

    def source(self) -> HaystackSource:
        """Return the lines of the folder, or endless prose. Raises HaystackError."""
        if not self.options.folder:
            return records("verbatim", f"verbatim-{self.version}", _prose)
        files = _read(Path(self.options.folder).expanduser())
        digest = hashlib.sha256("\0".join(files).encode("utf-8", "surrogatepass")).hexdigest()
        lines = [file.split("\n") for file in files]

        def rotated(stream: int) -> Iterator[str]:
            start = Random(stream).randrange(len(lines))
            order = chain(islice(lines, start, None), islice(lines, start))
            return (f"\n{line}" for line in chain.from_iterable(order))

        return replace(records(self.options.folder, digest, rotated), endless=False)


def _prose(stream: int) -> Iterator[str]:
    return (f"\n{sentence}" for paragraph in paragraphs(stream) for sentence in paragraph)


def _read(folder: Path) -> list[str]:
    """Return the text of each file of a folder, or of one file; hidden files and those that are not UTF-8 are left out. Raises HaystackError."""
    contents: list[bytes] = []
    size = 0
    try:
        found = [folder] if folder.is_file() else folder.rglob("*")
        shown = (path for path in found if not _hidden(path.relative_to(folder)) and path.is_file())
        paths = sorted(islice(shown, _MOST_FILES + 1))
        if len(paths) > _MOST_FILES:
            raise HaystackError(
                f"`{folder}` holds more than {_MOST_FILES} files; type `--set folder=` with a part of it"
            )
        for path in paths:
            contents.append(read_bytes(path, _MOST_BYTES))
            size += len(contents[-1])
            if size > _MOST_BYTES:
                raise HaystackError(
                    f"`{folder}` holds more than {_MOST_BYTES >> 20} MiB; type `--set folder=` with a part of it"
                )
    except OSError as error:
        raise HaystackError(f"`{folder}` cannot be read: {error.strerror or error}") from error
    texts = [text for content in contents if (text := _decoded(content)).strip()]
    if not texts:
        raise HaystackError(f"`{folder}` holds no file of text; type `--set folder=` with one that does")
    return texts


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _decoded(content: bytes) -> str:
    """Return the text of a file with line feeds; "" for one that is not text."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    return "" if "\0" in text else text.replace("\r\n", "\n").replace("\r", "\n")


task = Verbatim
