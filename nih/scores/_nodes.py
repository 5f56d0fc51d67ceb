"""The set of nodes in an answer to a question about a graph, and how near it is to the right one (openai/graphwalks).

The set is written `Final Answer: [n1, n2]`. The expected texts are the nodes; `[]` alone stands for no node.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NONE = "[]"
"""The expected text where no node is right."""
_LIST = re.compile(r"Final Answer:\s*\[(.*)\]")


def lines(answer: str) -> list[str]:
    """Return the lines of an answer; line ends at its own end begin none."""
    return answer.rstrip("\n").split("\n")


def f1(answers: Iterable[str], expected: Sequence[str]) -> float:
    """Return 2PR / (P + R) of the first of the lines that holds a list, and 0 if none does.

    P is the share of the given nodes that are expected, R the share of the expected nodes that are given; 1 if there are neither.
    """
    found = next((match[1] for match in map(_LIST.search, answers) if match), None)
    if found is None:
        return 0.0
    given = {item.strip().strip("'\"") for item in found.split(",") if item.strip()}
    wanted = set() if list(expected) == [NONE] else set(expected)
    if not given and not wanted:
        return 1.0
    return 2 * len(given & wanted) / (len(given) + len(wanted))
