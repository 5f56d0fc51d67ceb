"""Whatever nih reads is read or refused in a sentence: a small campaign; `make fuzz` is a large one."""

from __future__ import annotations

from pathlib import Path

from tests.support.fuzz import campaign, targets

MUTATIONS = 2000
SECONDS = 60.0


def test_no_mutation_is_anything_but_read_or_refused(tmp_path: Path) -> None:
    found = campaign(tmp_path, MUTATIONS, seed=1, seconds=SECONDS)
    assert not found.faults
    assert sum(found.tried.values()) == MUTATIONS or sum(found.tried.values()) > 500, (
        "a slow machine tries fewer"
    )
    assert sum(count > 0 for count in found.accepted.values()) >= 18, "mutations are not all nonsense"


def test_the_examples_themselves_are_read(tmp_path: Path) -> None:
    place = tmp_path / "files"
    all_targets = targets(tmp_path)
    place.mkdir()
    for target in all_targets:
        target.read(place, target.example)
