"""The counts of `rooms.py`, and what holds of this checkout by them; every slow test on the list exists."""

from __future__ import annotations

import ast

from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SLOW
from tests.repo.help_pages import ROOT
from tests.repo.rooms import COLUMNS, count, floors, look_ups, names_columns, upward

Graph = dict[str, set[str]]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, bool]:
    """A graph of rooms, and whether it was drawn without arrows that run up."""
    names = draw(st.permutations([f"room{i}" for i in range(draw(st.integers(2, 9)))]))
    down = draw(st.booleans())
    pairs = [(a, b) for i, a in enumerate(names) for b in (names[i + 1 :] if down else names) if a != b]
    kept = draw(st.sets(st.sampled_from(pairs), max_size=20))
    return {name: {b for a, b in kept if a == name} for name in sorted(names)}, down


@given(graphs())
def test_floors_are_an_order_of_all_rooms_and_need_no_arrow_up_where_none_is_needed(
    drawn: tuple[Graph, bool],
) -> None:
    graph, acyclic = drawn
    assert sorted(floors(graph)) == sorted(graph)
    if acyclic:
        assert not upward(graph)


@given(st.integers(2, 12))
def test_a_ring_of_rooms_has_one_arrow_up(size: int) -> None:
    ring = {f"room{i:02}": {f"room{(i + 1) % size:02}"} for i in range(size)}
    assert len(upward(ring)) == 1


def test_look_ups_and_schemas_are_seen_as_they_are_written() -> None:
    code = 'row["id"]; run.manifest.get("grid", {}); other["y"]; table["id"]; row[key]; sample_row["task"]'
    assert list(look_ups(ast.parse(code))) == ["id", "grid", "task"]
    names = sorted(COLUMNS)[:8]
    for text in (repr(names), repr(dict.fromkeys(names)), f"f({', '.join(f'{n}=1' for n in names)})"):
        assert names_columns(ast.parse(text, mode="eval").body)
    assert not names_columns(ast.parse(repr(names[:7]), mode="eval").body)


def test_no_import_of_this_checkout_runs_up() -> None:
    assert count(ROOT)["upward arrows"] == "0"


def test_every_slow_test_exists() -> None:
    for entry in SLOW:
        path, _, name = entry.partition("::")
        assert (ROOT / path).exists(), entry
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), entry
