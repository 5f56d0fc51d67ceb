"""The page as a file: nothing in it can be executed or fetched but its own script, and its numbers are those of the tables."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nih.errors import StoreError
from nih.report import compare, page, tables
from nih.report.tables import results_for
from nih.report.write import report
from nih.stats.mean import average, mean
from nih.text import sanitize
from tests.support.journal_rows import grid, make_run, row

BAD = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>{{ 7 * 7 }}&amp;\x1b[31m\x00\x9b\u202e\u2028\ud800\"'"
VISIBLE = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>{{ 7 * 7 }}&amp;\\x1b[31m\\x00\\x9b\\u202e\\u2028\\ud800\"'"


class Page(HTMLParser):
    """A page taken apart."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, list[str]] = {}
        self.within = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside.setdefault(tag, []).append("")
        self.within = tag

    def handle_endtag(self, tag: str) -> None:
        self.within = ""

    def handle_data(self, data: str) -> None:
        if self.within:
            self.inside[self.within][-1] += data

    @property
    def data(self) -> dict[str, Any]:
        """What the script is given."""
        loaded: dict[str, Any] = json.loads(self.inside["script"][0])
        return loaded

    @property
    def policy(self) -> dict[str, str]:
        """Content security policy, by directive."""
        text = next(
            a["content"] for t, a in self.elements if a.get("http-equiv") == "Content-Security-Policy"
        )
        return dict(part.strip().partition(" ")[::2] for part in (text or "").split(";"))


def written(path: Path) -> Page:
    report(path)
    return Page((path / "report.html").read_text(encoding="utf-8"))


def samples(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(zip(run["samples"]["columns"], values, strict=True)) for values in run["samples"]["rows"]]


def scripts() -> dict[str, str]:
    """Sources of the page's own script, by name."""
    folder = Path(page.__file__).with_suffix("")
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.js")}


def test_hostile_text_stays_inside_the_data(tmp_path: Path) -> None:
    fields = dict.fromkeys(("answer", "question", "around", "needle", "answer_prefix"), BAD)
    rows = [row(BAD, expected=(BAD,), **fields), row("x", trial=1, status="error", error=BAD)]
    path = make_run(tmp_path, rows, model=BAD, note={BAD: [BAD]})
    report(path)
    html = (path / "report.html").read_bytes().decode("utf-8")
    found = Page(html)
    assert [(tag, a.get("type")) for tag, a in found.elements if tag == "script"] == [
        ("script", "application/json"),
        ("script", None),
    ]
    assert not any(
        name.startswith("on") or name in ("src", "href", "style") for _, a in found.elements for name in a
    )
    assert not {c for c in html if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - {"\n", "\t"}
    assert "<" not in found.inside["script"][0] and "&" not in found.inside["script"][0]
    (run,) = found.data["runs"]
    bad, failed = sorted(samples(run), key=lambda s: s["trial"])
    for name in ("id", "answer", "question", "needle", "answer_prefix"):
        assert bad[name] == VISIBLE
    assert bad["expected"] == [VISIBLE] and failed["error"] == VISIBLE
    assert run["name"] == VISIBLE and run["manifest"]["note"] == {VISIBLE: [VISIBLE]}
    assert found.inside["title"] == [f"{VISIBLE} · passkey"]


def test_the_policy_lets_only_the_pages_own_script_and_style_run(tmp_path: Path) -> None:
    found = written(make_run(tmp_path, [row()]))

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert found.policy["default-src"] == "'none'"
    assert found.policy["script-src"] == digest(found.inside["script"][1])
    assert found.policy["style-src"] == digest(found.inside["style"][0])
    assert found.policy["require-trusted-types-for"] == "'script'"
    assert not any(
        "unsafe" in value or "http" in value or "data:" in value for value in found.policy.values()
    )


def test_the_script_writes_no_markup() -> None:
    """Text nodes only; the policy's trusted types hold the chart library to it too."""
    for source in scripts().values():
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser|fetch\(|XMLHttp",
            source,
        )
        assert "http://" not in source and "https://" not in source


def test_the_scripts_can_be_read() -> None:
    """Lines of at most 120 characters; all but the last file only define, so that each can be tested without a page."""
    found = scripts()
    assert set(found) == set(page.SCRIPTS)
    for name, source in found.items():
        long = [line for line in source.splitlines() if len(line) > 120]
        assert not long, (name, long)
        starts = {
            line.split()[0].rstrip("();") for line in source.splitlines() if re.match(r"[a-zA-Z]", line)
        }
        assert starts <= {"const", "function"} | ({"drawPage"} if name == page.SCRIPTS[-1] else set()), name


def test_the_page_carries_the_licence_of_what_it_embeds(tmp_path: Path) -> None:
    script = written(make_run(tmp_path, [row()])).inside["script"][1]
    assert "Leon Sorokin" in script and "The above copyright notice and this permission notice" in script


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_embedded_json_cannot_leave_its_element_and_loses_nothing(value: Any) -> None:
    text = page.embedded(value)
    assert not set(text) & set("<>&\u2028\u2029\n\r")

    def seen(v: Any) -> Any:
        if isinstance(v, str):
            return sanitize(v)
        if isinstance(v, dict):
            return {sanitize(k, lines=False): seen(x) for k, x in v.items()}
        if isinstance(v, list):
            return [seen(x) for x in v]
        return None if isinstance(v, float) and not abs(v) < float("inf") else v

    assert json.loads(text) == seen(value)


def test_the_numbers_are_those_of_the_tables(tmp_path: Path) -> None:
    rows = [
        row(
            f"{length}-{depth}-{trial}",
            length=length,
            depth=depth,
            trial=trial,
            score=float(trial < 2),
            seconds=0.5 + trial,
        )
        for length in (1024, 2048)
        for depth in (0.0, 100.0)
        for trial in range(3)
    ]
    rows[0] = replace(rows[0], status="oom", score=None, nll=None)
    path = make_run(tmp_path, rows, grid=grid([1024, 2048, 4096], [0.0, 100.0], 3))
    data = written(path).data
    found, table = data["runs"][0], tables.cells(path)
    shown = pd.DataFrame(found["maps"][0]["cells"])
    for name in ("length", "depth", "n", "correct", "accuracy", "ci_low", "ci_high", "errors"):
        assert shown[name].astype(float).equals(table[name].astype(float)), name
    assert shown["state"].tolist() == ["scored"] * 4 + ["missing"] * 2
    assert [(line["length"], line["n"], line["errors"]) for line in found["lengths"]] == [
        (1024, 5, 1),
        (2048, 6, 0),
        (4096, 0, 0),
    ]
    assert found["lengths"][0]["accuracy"] == 3 / 5 and found["lengths"][1]["seconds"] == 1.5
    assert [s["id"] for s in samples(found)] == tables.samples(path)["id"].tolist()
    assert found["cost"] is None and data["compared"] == []


@pytest.mark.parametrize(
    ("around", "needle", "parts"),
    [
        ("a needle b", "needle", ("a ", "needle", " b")),
        ("nothing here", "needle", ("nothing here", "needle", "")),
        ("no needle asked", "", ("no needle asked", "", "")),
    ],
)
def test_the_needle_is_marked_in_its_surroundings(
    tmp_path: Path, around: str, needle: str, parts: tuple[str, str, str]
) -> None:
    (sample,) = samples(written(make_run(tmp_path, [row(around=around, needle=needle)])).data["runs"][0])
    assert (sample["before"], sample["needle"], sample["after"]) == parts


def test_a_suite_has_a_table_of_tasks_and_one_task_has_none(tmp_path: Path) -> None:
    names = ["passkey", BAD]
    rows = [
        row(f"{i}-{n}", task=t, length=n, score=float(i)) for i, t in enumerate(names) for n in (1024, 2048)
    ]
    tasks = [{"name": name, "score": "contains"} for name in names]
    path = make_run(tmp_path / "two", rows, tasks=tasks, grid=grid([1024, 2048], [50.0]))
    found = written(path).data["tasks"]
    results = results_for(path)
    assert found["columns"] == ["1k", "2k", "all lengths", "effective length at accuracy >= 0.856"]
    assert [line["task"] for line in found["rows"]] == ["passkey", VISIBLE, "average"]
    scores = [[results.scores_of(name, n) for name in names] for n in (1024, 2048, None)]
    lines = [[mean([own]) for own in column] + [average(column)] for column in scores]
    for line, means in zip(found["rows"], zip(*lines, strict=True), strict=True):
        assert line["values"][:3] == [{"text": each.short, "share": each.accuracy} for each in means]
    assert [line["values"][-1]["text"].split(" [")[0] for line in found["rows"]] == [
        "below 1k",
        "at least 2k",
        "",
    ]
    assert "tasks" not in written(make_run(tmp_path / "one", [row()])).data


def test_cost_is_read_where_it_was_measured(tmp_path: Path) -> None:
    path = make_run(tmp_path, [row()])

    def cost(text: str) -> Any:
        (path / page.COST).write_text(text)
        return Page(page.render([page.RunView.of(results_for(path))]).decode()).data["runs"][0]["cost"]

    found = cost("model,length,prefill_seconds,peak_bytes,device\necho,1024,0.25,,cpu\n")
    assert found == [
        {"model": "echo", "length": 1024, "prefill_seconds": 0.25, "peak_bytes": None, "device": "cpu"}
    ]
    with pytest.raises(StoreError, match=r"cost\.csv` is damaged: a row has no `length`"):
        cost("model,tokens\necho,1024\n")


def test_a_comparison_holds_its_differences(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", [row("s")], model="x")
    b = make_run(tmp_path / "b", [row("s", score=0.0)], model="y")
    folder, notes = compare.compare([a, b], tmp_path / "out")
    data = Page((folder / "report.html").read_text()).data
    assert [run["name"] for run in data["runs"]] == ["x", "y"]
    (found,) = data["compared"]
    assert found["run"] == 1 and found["notes"] == notes
    assert found["cells"][0]["value"] == -1 and found["cells"][0]["paired"] and found["overall"][0]["n"] == 1


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([None, 0.0, 0.5, 1.0])), max_size=60),
    st.integers(1, 40),
)
def test_a_page_of_many_samples_holds_some_of_every_cell_and_the_wrong_ones_first(
    drawn: list[tuple[int, float | None]], most: int
) -> None:
    rows = [
        row(str(i), depth=float(cell), score=score, status="ok" if score is not None else "error")
        for i, (cell, score) in enumerate(drawn)
    ]
    shown = page.samples_shown(rows, most)
    assert shown == [r for r in rows if r in shown], "in their order"
    cells = {r.cell for r in rows}
    assert {r.cell for r in shown} == cells
    if len(rows) <= most:
        assert shown == rows
    else:
        assert len(shown) <= max(most, len(cells))
    for cell in cells:
        left_out = [r for r in rows if r.cell == cell and r not in shown]
        if any(r.score != 1 for r in left_out):
            assert all(r.score != 1 for r in shown if r.cell == cell)


def test_a_page_says_how_many_samples_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MOST_SAMPLES", 4)
    run = make_run(tmp_path, [row(str(i), trial=i) for i in range(7)], grid=grid([1024], [50.0], 7))
    report(run)
    samples = Page((run / "report.html").read_text(encoding="utf-8")).data["runs"][0]["samples"]
    assert len(samples["rows"]) == 4 and samples["left_out"] == 3
    assert len((run / "samples.csv").read_text().splitlines()) == 8
