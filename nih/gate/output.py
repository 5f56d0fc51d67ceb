"""A gate's outcome for people and machines: lines, JUnit XML, Markdown.

Names of models and tasks and the words of errors are not ours: in XML and Markdown they are escaped, and control characters are
escapes like `\\x1b`.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from pathlib import Path

from nih.errors import UsageError
from nih.gate.rules import Outcome
from nih.text import markdown_table, markdown_text, sanitize

_WIDTH = 9


def lines(outcome: Outcome) -> list[str]:
    """Return one line per rule: how it ended, its name, what was found."""
    width = max([_WIDTH, *(len(v.rule) for v in outcome.verdicts)])
    return [
        sanitize(
            f"{v.state.upper() if v.state == 'fail' else v.state:4}  {v.rule:{width}}  {v.detail}",
            lines=False,
        )
        for v in outcome.verdicts
    ]


def headline(outcome: Outcome) -> str:
    """Return the outcome in one line."""
    failed = [v.rule for v in outcome.failed]
    if not failed:
        return f"gate passed: {len(outcome.verdicts)} rules"
    return sanitize(
        f"gate failed: {', '.join(failed)} ({len(failed)} of {len(outcome.verdicts)} rules)", lines=False
    )


def junit(outcome: Outcome) -> bytes:
    """Return JUnit XML: one suite, one test case per rule, what was found as its output, failure or reason for skipping."""
    count = {state: str(sum(v.state == state for v in outcome.verdicts)) for state in ("fail", "skip")}
    totals = {
        "tests": str(len(outcome.verdicts)),
        "failures": count["fail"],
        "errors": "0",
        "skipped": count["skip"],
        "time": "0",
    }
    root = ET.Element(
        "testsuites", {"name": "nih gate", **{k: v for k, v in totals.items() if k != "skipped"}}
    )
    suite = ET.SubElement(root, "testsuite", {"name": _clean(f"nih gate {outcome.model}"), **totals})
    properties = ET.SubElement(suite, "properties")
    for name, value in _facts(outcome):
        ET.SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for verdict in outcome.verdicts:
        case = ET.SubElement(
            suite, "testcase", {"classname": "nih.gate", "name": _clean(verdict.rule), "time": "0"}
        )
        if verdict.state == "fail":
            ET.SubElement(case, "failure", {"type": "regression", "message": _clean(verdict.detail)})
        elif verdict.state == "skip":
            ET.SubElement(case, "skipped", {"message": _clean(verdict.detail)})
        else:
            ET.SubElement(case, "system-out").text = _clean(verdict.detail)
    if outcome.notes:
        ET.SubElement(suite, "system-out").text = "\n".join(map(_clean, outcome.notes))
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def markdown(outcome: Outcome) -> str:
    """Return Markdown of GitHub's flavour: a heading, a table with a row per rule, and the notes."""
    rows = [[_word(v.rule), _MARKS[v.state], markdown_text(v.detail)] for v in outcome.verdicts]
    facts = [f"- {name}: {_word(value)}" for name, value in _facts(outcome)]
    notes = [f"- note: {markdown_text(note)}" for note in outcome.notes]
    return "\n".join(
        [
            f"### {markdown_text(headline(outcome))}",
            "",
            *markdown_table(["rule", "outcome", "what was found"], rows),
            "",
            *facts,
            *notes,
            "",
        ]
    )


_MARKS = {"pass": "pass", "fail": "**FAIL**", "skip": "not judged"}


def _facts(outcome: Outcome) -> list[tuple[str, str]]:
    limits = outcome.limits
    facts = [
        ("model", outcome.model),
        ("run", str(outcome.run)),
        ("baseline", str(outcome.baseline)),
        ("max-drop", f"{limits.max_drop:g}"),
        ("alpha", f"{limits.alpha:g}"),
    ]
    asked = (("max-slowdown", limits.max_slowdown), ("within", limits.within))
    return [*facts, *((name, f"{value:g}") for name, value in asked if value is not None)]


def _clean(text: str) -> str:
    """Return the text without the characters that XML forbids."""
    return sanitize(text, lines=False)


def _word(text: str) -> str:
    """Return a name as code, where GitHub turns nothing into a mention or a link."""
    return f"<code>{markdown_text(text)}</code>"


def write(path: Path, content: str | bytes, option: str) -> None:
    """Replace a file, with its folder if there is none. Raises UsageError."""
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A link may come with a run folder. One to a pipe or a terminal, as /dev/stdout is, leads to no file of the user's.
        follow = path.exists() and not path.is_file()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
        with os.fdopen(os.open(path, flags, 0o666), "wb") as file:
            file.write(data)
    except OSError as error:
        raise _unwritable(path, error, option) from error


def append(path: Path, content: str) -> None:
    """Add to the file that `GITHUB_STEP_SUMMARY` names. Raises UsageError."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(content + "\n")
    except OSError as error:
        raise _unwritable(path, error, "GITHUB_STEP_SUMMARY") from error


def _unwritable(path: Path, error: OSError, option: str) -> UsageError:
    return UsageError(
        f"cannot write `{path}`: {error.strerror or error}; give `{option}` a file that you can write to"
    )
