"""Help pages: options in panels, choices shown. The pages themselves are in docs/cli.md, which tests/repo/test_docs.py compares."""

from __future__ import annotations

from functools import cache

import pytest

from tests.repo.help_pages import help_pages

pages = cache(help_pages)


@pytest.mark.parametrize("command", ["nih run", "nih plan"])
def test_options_stand_in_panels_and_choices_are_shown(command: str) -> None:
    page = pages()[command]
    for panel in ("What to ask", "Model", "Engine", "Execution", "Scoring and output"):
        assert f"─ {panel} ─" in page
    assert "auto|always|never" in page and "start|end|both" in page
    assert "{scores}" not in page


def test_every_command_says_what_it_does() -> None:
    from nih.cli import app, bench_app

    verbs = {f"nih {info.name}" for info in app.registered_commands}
    verbs |= {f"nih {info.name}" for info in app.registered_groups}
    benches = {f"nih bench {info.name}" for info in bench_app.registered_commands}
    assert set(pages()) == {"nih"} | verbs | benches
    for command, page in pages().items():
        usage, blank, *rest = page.splitlines()
        assert usage.startswith(f"Usage: {command} ") or usage == f"Usage: {command}"
        assert not blank.strip() and rest[0].strip()[0].isupper(), command
