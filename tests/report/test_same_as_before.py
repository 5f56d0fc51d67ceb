"""What a report holds does not change unnoticed: two small runs, and what the version that made them wrote of them.

The journals and the expected files are those of commit 1649562. Text is compared byte for byte; figures by their hashes, if the
libraries that draw them are those of that time. Since the status `no_answer` came, its column is the last of each table and it is in
the pages' data, as is `thinking` (no sample has either): the expected files were drawn again, and nothing else in them changed. They were drawn once more when intervals began to allow for haystacks, which changed
intervals that pool cells, added `haystacks` and `note`, and changed the words above maps.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from nih.report.compare import compare
from nih.report.write import report
from tests.report.test_page import Page

DATA = Path(__file__).parents[1] / "data" / "report"
EXPECTED = DATA / "expected"
FIGURES: dict[str, str] = json.loads((EXPECTED / "figures.json").read_text())
TEXTS = sorted(str(path.relative_to(EXPECTED)) for path in EXPECTED.glob("*/*") if path.name != "page.json")
DRAWN_WITH = {library: FIGURES.pop(library) for library in ("matplotlib", "seaborn")}
SAME_LIBRARIES = all(version(library) == release for library, release in DRAWN_WITH.items())
RUNS = {"first": ("first", None), "second": ("second", None), "exact": ("first", "exact")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of the runs, one also under another score, and the comparison of the two."""
    folder = tmp_path_factory.mktemp("made")
    for name, (source, score) in RUNS.items():
        report(Path(shutil.copytree(DATA / source, folder / name)), score)
    compare([folder / "first", folder / "second"], folder / "comparison")
    return folder


@pytest.mark.parametrize("name", TEXTS)
def test_tables_are_those_of_before(made: Path, name: str) -> None:
    assert (made / name).read_bytes() == (EXPECTED / name).read_bytes()


@pytest.mark.parametrize("name", [*RUNS, "comparison"])
def test_the_pages_data_is_that_of_before(made: Path, name: str) -> None:
    # Releases of scipy differ in the twelfth digit of an interval's ends, which they search for.
    expected = json.loads(
        (EXPECTED / name / "page.json").read_text(),
        parse_float=lambda digits: pytest.approx(float(digits), abs=1e-9),
    )
    assert data(made / name) == expected


def data(folder: Path) -> dict[str, Any]:
    """What the page of a folder is given."""
    return Page((folder / "report.html").read_text(encoding="utf-8")).data


def test_no_file_is_missing_and_none_is_new(made: Path) -> None:
    given = {"run.json", "samples.jsonl", "cost.csv", ".lock"}
    found = {str(path.relative_to(made)) for path in made.glob("*/*") if path.name not in given}
    assert found == {*TEXTS, *FIGURES, *(f"{name}/report.html" for name in (*RUNS, "comparison"))}


@pytest.mark.skipif(not SAME_LIBRARIES, reason="other versions of matplotlib or seaborn draw other pixels")
@pytest.mark.parametrize("name", sorted(FIGURES))
def test_figures_are_those_of_before(made: Path, name: str) -> None:
    assert hashlib.sha256(named_in_order((made / name).read_bytes())).hexdigest() == FIGURES[name]


def named_in_order(content: bytes) -> bytes:
    """Number the ids of an SVG's parts: matplotlib's own depend on what else the process has drawn."""
    order: dict[bytes, bytes] = {}
    return re.sub(
        rb"\b[hmp][0-9a-f]{10}\b", lambda found: order.setdefault(found[0], b"id%d" % len(order)), content
    )
