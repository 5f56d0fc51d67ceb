"""The page in a real browser, opened from disk: Chromium without a window, driven through chromedriver."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nih.cost import measure as cost
from nih.report import compare, page
from nih.report.tables import results_for
from nih.report.write import report
from nih.store.journal import Row
from nih.store.manifest import Manifest
from nih.store.run import StoredRun
from nih.text import length_label
from tests.support.journal_rows import grid, make_run, row

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install 'nih[dev]'")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs a browser: apt install chromium chromium-driver (found chromium: "
    f"{CHROMIUM or 'no'}, chromedriver: {DRIVER or 'no'})",
)

LENGTHS, DEPTHS = [1024, 2048, 4096, 8192], [0.0, 50.0, 100.0]
HOSTILE = "</script><script>window.hit=1</script><img src=http://127.0.0.1:9/x onerror=window.hit=1><b>bold</b> \x1b[31mred\x07\u202eback\u2028end"
HARMLESS = "</script><script>window.hit=1</script><img src=http://127.0.0.1:9/x onerror=window.hit=1><b>bold</b> \\x1b[31mred\\x07\\u202eback\\u2028end"


class Browser:
    """A tab, and what was heard in it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path) -> None:
        """Load a file and wait until its maps and curves are drawn."""
        self.driver.get("about:blank")
        self.heard()
        self.driver.get(path.resolve().as_uri())
        self.until(
            "return performance.getEntriesByName('drawn').length && document.querySelector('#lengths tr')"
        )

    def until(self, script: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60).until(lambda d: d.execute_script(script))

    def heard(self) -> tuple[list[str], list[str]]:
        """Console messages and requested addresses since the last call."""
        console = [entry["message"] for entry in self.driver.get_log("browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return console, [url for url in asked if url != "about:blank"]

    def all(self, css: str) -> list[Any]:
        """Elements that match."""
        found: list[Any] = self.driver.find_elements("css selector", css)
        return found

    def one(self, css: str) -> Any:
        """The one element that matches."""
        (found,) = self.all(css)
        return found

    def cell(self, length: int, depth: float, grid: str = "#maps [role=grid]") -> Any:
        """A cell of the first map."""
        return self.all(f"{grid} [data-length='{length}'][data-depth='{depth:g}']")[0]

    def choose(self, name: str, value: str) -> None:
        """Set a filter as a user does."""
        from selenium.webdriver.support.ui import Select

        Select(self.one(f"#filter-{name}")).select_by_value(value)

    def keys(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def focused(self) -> Any:
        """The element with the focus."""
        return self.driver.switch_to.active_element

    @property
    def count(self) -> str:
        """What the page says of how many samples it lists."""
        return str(self.one("#count").text)

    def emulate(self, **features: Any) -> None:
        """A dark theme (`dark`), a narrow screen (`width`)."""
        scheme = "dark" if features.get("dark") else "light"
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        if width := features.get("width"):
            metrics = {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        else:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    profile = tmp_path_factory.mktemp("profile")
    arguments = [
        "--headless=new",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
        f"--user-data-dir={profile}",
    ]
    # Chromium refuses its sandbox to root, as in a container.
    for argument in [*arguments, *(["--no-sandbox"] if os.geteuid() == 0 else [])]:
        options.add_argument(argument)
    started = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield started
    started.quit()


@pytest.fixture
def browser(driver: Any) -> Iterator[Browser]:
    """A tab that must stay silent and ask for nothing but the file."""
    tab = Browser(driver)
    tab.emulate()
    yield tab
    console, asked = tab.heard()
    assert console == []
    assert asked and all(url.startswith(("file:///", "data:")) for url in asked), asked


def rows(model: str, wrong: Iterable[int] = ()) -> list[Row]:
    """Three trials per cell, all right but those at the lengths `wrong`; 8k has no sample at depth 0 and failed ones at 50."""
    made = [
        row(
            f"{length}-{depth:g}-{trial}",
            length=length,
            depth=depth,
            trial=trial,
            answer=f" {model} says {length + trial}",
            score=float(length not in wrong or trial == 0),
        )
        for length in LENGTHS
        for depth in DEPTHS
        for trial in range(3)
        if (length, depth) != (8192, 0.0)
    ]
    unscored: dict[Any, dict[str, Any]] = {
        (8192, 50.0): {"status": "oom", "score": None, "answer": "", "error": "out of memory"},
        (8192, 100.0): {"status": "over_limit", "score": None, "answer": "", "error": "too long"},
    }
    return [replace(each, **unscored.get(each.cell, {})) for each in made]


def run(path: Path, model: str, made: list[Row], **more: Any) -> Path:
    return make_run(
        path, made, model=model, **{"grid": grid(LENGTHS, DEPTHS, 3), "training_length": 2048, **more}
    )


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = rows("mamba", {4096})
    made[0] = replace(made[0], answer=HOSTILE)
    path = run(tmp_path_factory.mktemp("single") / "run", "mamba", made)
    costs = [
        {"model": "mamba", "length": n, "prefill_seconds": n / 1e4, "peak_bytes": 1_000_000, "status": "ok"}
        for n in LENGTHS[:2]
    ]
    (path / cost.FILE).write_bytes(cost.table(costs, cost.COST_COLUMNS))
    report(path)
    return path / "report.html"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("both")
    paths = [run(folder / "a", "mamba", rows("mamba")), run(folder / "b", "rwkv", rows("rwkv", {4096}))]
    return compare.compare(paths, folder / "out")[0] / "report.html"


def test_a_click_on_a_cell_shows_its_samples(browser: Browser, single: Path) -> None:
    browser.open(single)
    assert browser.count == "33 samples"
    browser.cell(4096, 50.0).click()
    assert browser.count == "3 of 33 samples"
    assert browser.cell(4096, 50.0).get_attribute("aria-selected") == "true"
    first = browser.all("#list details")[0]
    assert first.get_attribute("open") is not None
    fields = dict(zip((e.text for e in first.find_elements("css selector", "dt")), (e.text for e in first.find_elements("css selector", "dd")), strict=True))  # fmt: skip
    assert fields["prompt"] == "… The grass is green. The pass key is 12345. The sky is blue. …"
    assert first.find_element("css selector", "mark").text == "The pass key is 12345."
    assert fields["question"] == "What is the pass key?" and fields["answer begins"] == "The pass key is"
    assert fields["expected"] == "12345" and fields["answer"].strip() == "mamba says 4096"
    assert fields["score"] == "1 (contains)" and fields["status"] == "ok"
    assert fields["depth"] == "50 % asked, 50.40 % actual" and fields["id"] == "4096-50-0"
    assert [e.text for e in browser.all("#list .verdict")] == ["✓ right", "✗ wrong", "✗ wrong"]
    browser.cell(8192, 50.0).click()
    assert [e.text for e in browser.all("#list .verdict")] == ["× oom"] * 3
    assert "out of memory" in browser.one("#list > li:first-child dl").text


def test_filters_narrow_the_list(browser: Browser, single: Path) -> None:
    browser.open(single)
    browser.choose("score", "wrong")
    assert browser.count == "6 of 33 samples"
    browser.choose("depth", "100")
    assert browser.count == "2 of 33 samples"
    browser.choose("length", "1024")
    assert browser.count == "0 of 33 samples"
    browser.one("#filters button[type=reset]").click()
    assert browser.count == "33 samples"
    browser.choose("status", "over_limit")
    assert browser.count == "3 of 33 samples"
    browser.one("#filters button[type=reset]").click()
    browser.one("#filter-text").send_keys("SAYS 2050")
    assert browser.count == "3 of 33 samples"
    assert all("says 2050" in e.text for e in browser.all("#list .preview"))


def test_a_hostile_answer_is_text(browser: Browser, single: Path) -> None:
    browser.open(single)
    browser.one("#filter-text").send_keys("window.hit")
    browser.one("#list summary").click()
    browser.until("return document.querySelector('#list .answer')")
    assert browser.one("#list .answer").text == HARMLESS
    assert browser.driver.execute_script(
        "return [window.hit, document.querySelectorAll('main script, main img, #list b').length]"
    ) == [None, 0]


def test_the_keyboard_reaches_all(browser: Browser, single: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(single)
    assert len(browser.all("#maps [role=gridcell][tabindex='0']")) == 1, "one cell is in the tab order"
    browser.driver.execute_script("arguments[0].focus()", browser.cell(1024, 0.0))
    browser.keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert browser.focused() == browser.cell(2048, 100.0), "the edge stops it"
    browser.keys(Keys.HOME)
    assert browser.focused() == browser.cell(1024, 100.0)
    browser.keys(Keys.END, Keys.PAGE_UP)
    assert browser.focused() == browser.cell(8192, 0.0)
    browser.keys(Keys.ARROW_LEFT)
    assert len(browser.all("#maps [role=gridcell][tabindex='0']")) == 1
    assert (
        browser.focused()
        .get_attribute("aria-label")
        .startswith("4k tokens, depth 0 %: 1 of 3 right, accuracy 0.33 [")
    )
    assert browser.one("#maps .readout").text == browser.focused().get_attribute("aria-label")
    browser.keys(Keys.ENTER)
    assert browser.count == "3 of 33 samples" and browser.focused().get_attribute("id") == "samples-title"
    browser.keys(Keys.ESCAPE)
    assert browser.count == "33 samples" and browser.focused() == browser.cell(4096, 0.0)
    browser.keys(Keys.TAB)
    assert browser.focused() != browser.cell(4096, 0.0)


def test_every_state_of_a_cell_has_its_own_look_and_words(browser: Browser, single: Path) -> None:
    browser.open(single)
    cells = {
        "scored": (2048, 0.0),
        "missing": (8192, 0.0),
        "error": (8192, 50.0),
        "over_limit": (8192, 100.0),
    }
    looks = set()
    for kind, place in cells.items():
        cell = browser.cell(*place)
        assert kind in cell.get_attribute("class").split()
        looks.add(
            (
                cell.value_of_css_property("background-color"),
                cell.value_of_css_property("background-image"),
                cell.text,
            )
        )
    assert len(looks) == 4
    words = [
        browser.cell(*cells[kind]).get_attribute("aria-label").partition(": ")[2]
        for kind in ("missing", "error", "over_limit")
    ]
    assert words == ["no sample", "3 failed samples", "over the model's limit"]
    assert {e.get_attribute("data-length") for e in browser.all("#maps .beyond")} == {"4096"}, (
        "the line is right of 2k"
    )
    assert browser.one("#maps .trained.left, #maps .trained.right").text.strip(" ▾") == "trained at 2k"


def test_cost_is_drawn_where_it_was_measured(browser: Browser, single: Path, both: Path) -> None:
    browser.open(single)
    titles = [e.text for e in browser.all("#curves figcaption")]
    assert "Seconds to read a prompt from cold" in titles and "Accuracy against memory" in titles
    assert "Milliseconds per generated token" not in titles
    browser.open(both)
    titles = [e.text for e in browser.all("#curves figcaption")]
    assert titles == [
        "Accuracy by length, all depths, 95 % interval",
        "Accuracy by the needle's distance from the end, 95 % interval",
        "Mean seconds per sample, as this run answered it",
    ]


def test_two_runs_are_compared(browser: Browser, both: Path) -> None:
    browser.open(both)
    assert len(browser.all("#maps [role=grid]")) == 2 and len(browser.all("#differences [role=grid]")) == 1
    assert browser.one("#differences .notes").text == (
        "rwkv against mamba: paired, 27 samples that both answered.\n"
        "rwkv against mamba: 9 of 12 cells have scores in both runs; the others are left out of every difference.\n"
        "rwkv against mamba: all samples share 3 haystacks, too few to tell how much haystacks differ; ask more --trials, or another "
        "--haystack than noise."
    )
    changed = browser.cell(4096, 50.0, "#differences [role=grid]")
    assert changed.text == "−.67" and "3 pairs" in changed.get_attribute("aria-label")
    assert browser.cell(1024, 50.0, "#differences [role=grid]").text == "0"
    changed.click()
    assert browser.count == "6 of 66 samples"
    assert [e.text.split(" · ")[0] for e in browser.all("#list .place")] == ["mamba", "rwkv"] * 3
    browser.choose("run", "1")
    assert (
        browser.count == "3 of 66 samples"
        and "rwkv says" in browser.one("#list > li:first-child .preview").text
    )


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks, one of a hostile name."""
    made = rows("mamba")
    second = [replace(r, id=f"h{r.id}", task=HOSTILE) for r in rows("mamba", {2048, 4096})]
    path = run(
        tmp_path_factory.mktemp("suite") / "run",
        "mamba",
        [*made, *second],
        tasks=[{"name": name, "score": "contains"} for name in ("passkey", HOSTILE)],
    )
    report(path)
    return path / "report.html"


def test_the_table_of_tasks_leads_to_their_maps(browser: Browser, suite: Path, single: Path) -> None:
    browser.open(suite)
    assert browser.one("#tasks caption").text.startswith("Accuracy at all depths")
    heads = [e.text for e in browser.all("#tasks thead th[scope=col]")]
    assert heads == ["task", "1k", "2k", "4k", "8k", "all lengths", "effective length at accuracy >= 0.856"]
    assert [e.text for e in browser.all("#tasks th[scope=row]")] == ["passkey", HARMLESS, "average"]
    values = [
        [e.text for e in line.find_elements("css selector", "td")] for line in browser.all("#tasks tbody tr")
    ]
    assert values[0][0].startswith("1.00 [") and values[1][1].startswith("0.33 [") and values[1][3] == ""
    assert len(browser.all("#tasks a")) == 2, "the average has no map"
    assert browser.driver.execute_script("return [window.hit, document.querySelectorAll('main script, main img').length]") == [None, 0]  # fmt: skip
    link = browser.all("#tasks a")[1]
    assert link.value_of_css_property("text-decoration-line") == "underline"
    browser.driver.execute_script("arguments[0].focus()", link)
    from selenium.webdriver.common.keys import Keys

    browser.keys(Keys.ENTER)
    assert browser.count == "33 of 66 samples"
    target = browser.driver.execute_script("return document.querySelector(':target')")
    assert target.find_element("css selector", "h3").text == HARMLESS
    assert target.is_displayed() and browser.one("#count").is_displayed()
    top = "return arguments[0].getBoundingClientRect().top"
    browser.until("return document.querySelector(':target').getBoundingClientRect().top < innerHeight")
    assert 0 <= browser.driver.execute_script(top, browser.one("#count")) < 900, "samples stay in sight"
    browser.open(single)
    assert not browser.one("#tasks").is_displayed()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [None, 390])
def test_it_fits_the_screen_and_text_stands_out_in_both_themes(
    browser: Browser, single: Path, both: Path, suite: Path, dark: bool, width: int | None
) -> None:
    browser.emulate(dark=dark, width=width)
    for path in (single, both, suite):
        browser.open(path)
        browser.cell(4096, 50.0).click()
        wide, room = browser.driver.execute_script(
            "return [document.documentElement.scrollWidth, innerWidth]"
        )
        assert wide <= room, "nothing makes the page scroll sideways"
        ratios = browser.driver.execute_script(CONTRAST)
        assert len(ratios) > 40 and min(ratios) >= 4.5, "WCAG 2.2, 1.4.3"


# Contrast of each piece of text with the nearest opaque ground behind it (WCAG 2.2, relative luminance).
CONTRAST = """
const parse = (c) => c.match(/[\\d.]+/g).map(Number);
const luminance = (c) => c.slice(0, 3).map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] === 1) return c; } return [255, 255, 255]; };
return [...document.querySelectorAll('h1, h2, h3, p, dt, dd, td, th, caption, #tasks a, label, summary span, button, select, mark, figcaption')]
  .filter((e) => e.offsetParent && e.textContent.trim() && !e.matches('.missing'))
  .map((e) => { const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(ground(e))]; return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); });
"""


def test_five_thousand_samples_open(browser: Browser, tmp_path: Path) -> None:
    lengths, depths = [1024 * (i + 1) for i in range(20)], [5.0 * i for i in range(25)]
    around = "The grass is green. " * 10 + "The pass key is 12345." + " The sky is blue." * 12
    made = [
        row(f"{n}-{d:g}-{t}", length=n, depth=d, trial=t, around=around, score=float((n + t) % 3 > 0))
        for n in lengths
        for d in depths
        for t in range(10)
    ]
    path = tmp_path / "report.html"
    tasks = [{"name": "passkey", "score": "contains"}]
    manifest = Manifest({"model": "m", "grid": grid(lengths, depths, 10), "tasks": tasks})
    stored = StoredRun(tmp_path, manifest, tuple(made))
    path.write_bytes(page.render([page.RunView.of(results_for(stored))]))
    browser.open(path)
    assert browser.count == "5000 samples" and len(browser.all("#maps [role=gridcell]")) == 500
    assert len(browser.all("#list > li")) == 50, "the rest is drawn when asked for"
    browser.one("#more").click()
    assert len(browser.all("#list > li")) == 100 and browser.one("#more").text == "Show 50 more of 4900"
    browser.one("#filter-text").send_keys("20480-120-9")
    assert browser.count == "1 of 5000 samples"


def test_the_policy_stops_what_the_page_never_does(driver: Any, single: Path) -> None:
    """Requests and markup from inside the document go nowhere: the browser itself refuses them."""
    tab = Browser(driver)
    tab.open(single)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        refused = driver.execute_async_script(
            """
            const [url, done] = arguments, refused = [];
            document.addEventListener('securitypolicyviolation', (event) => {
              refused.push(event.effectiveDirective);
              if (refused.length === 3) done(refused.sort());
            });
            const image = document.createElement('img');
            image.src = url;
            document.body.append(image);
            fetch(url).catch(() => 0);
            try { document.body.innerHTML = '<b>'; } catch { /* counted as a violation */ }
            """,
            f"http://127.0.0.1:{server.getsockname()[1]}/x",
        )
        assert refused == ["connect-src", "img-src", "require-trusted-types-for"]
        with pytest.raises(BlockingIOError):
            server.accept()
    tab.heard()


@pytest.fixture(scope="module")
def script(driver: Any) -> Callable[[str], Any]:
    """Evaluate an expression with the page's functions, on a page that holds nothing."""
    driver.get("about:blank")
    folder = Path(page.__file__).with_suffix("")
    source = "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in page.SCRIPTS[:-1])
    return lambda expression: driver.execute_script(f"{source}\nreturn {expression};")


@pytest.mark.parametrize(
    ("ends", "base", "expected"),
    [
        ((1024, 131072), 2, [1024, 4096, 16384, 65536]),
        ((1e-3, 10), 10, [0.001, 0.01, 0.1, 1, 10]),
        ((1, 30), 10, [1, 2, 5, 10, 20]),
        ((1.3, 2.1), 10, [1.4, 1.6, 1.8, 2]),
    ],
)
def test_ticks_are_round_numbers(
    script: Callable[[str], Any], ends: tuple[float, float], base: int, expected: list[float]
) -> None:
    assert script(f"ticks({ends[0]}, {ends[1]}, {base}, 7)") == pytest.approx(expected)


@given(st.floats(1e-6, 1e9), st.floats(1.01, 1e6), st.sampled_from([2, 10]), st.integers(2, 9))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ticks_lie_on_the_axis_in_order_and_are_never_too_many(
    script: Callable[[str], Any], low: float, times: float, base: int, most: int
) -> None:
    found = script(f"ticks({low!r}, {low * times!r}, {base}, {most})")
    assert found == sorted(set(found)) and len(found) <= most
    assert all(low <= value <= low * times for value in found)


def test_labels_of_lengths_keep_their_distance(script: Callable[[str], Any]) -> None:
    places = [1024 * (i + 1) for i in range(64)]
    kept = script(f"thinned({places}, 1024, 65536, 400)")
    pixels = [400 * math.log(n / 1024) / math.log(64) for n in kept]
    assert kept[0] == 1024 and set(kept) <= set(places)
    assert all(b - a >= 34 for a, b in itertools.pairwise(pixels))
    left_out = [n for n in places if n not in kept]
    assert all(
        min(abs(400 * math.log(n / 1024) / math.log(64) - p) for p in pixels) < 34 for n in left_out
    ), "a label is left out only where it would touch another"


@pytest.mark.parametrize("scale", ["VIRIDIS", "DIVERGING"])
def test_ink_stands_out_on_every_shade(script: Callable[[str], Any], scale: str) -> None:
    shades = script(f"Array.from({{ length: 201 }}, (_, i) => shade({scale}, i / 200))")

    def luminance(color: str) -> float:
        parts = {"#000": [0, 0, 0], "#fff": [255, 255, 255]}.get(color) or [
            *map(int, re.findall(r"\d+", color))
        ]
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in parts)
        ]
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for each in shades:
        light, dark = sorted((luminance(each["ground"]), luminance(each["ink"])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    assert script(f"shade({scale}, -3)") == shades[0] and script(f"shade({scale}, 7)") == shades[-1]


def test_labels_of_lengths_are_those_of_the_figures(script: Callable[[str], Any]) -> None:
    lengths = [1, 512, 1000, 1023, 1024, 1536, 10000, 100000, 131072, 1048576, 1572864, 10485760]
    assert script(f"{lengths}.map(lengthLabel)") == [length_label(n) for n in lengths]


def test_the_keys_of_a_map_stop_at_its_edges(script: Callable[[str], Any]) -> None:
    def moved(key: str, ctrl: bool = False) -> Any:
        return script(
            f"moved({{ key: '{key}', ctrlKey: {str(ctrl).lower()} }}, {{ row: 2, column: 0 }}, 2, 4)"
        )

    assert moved("ArrowDown") == {"row": 2, "column": 0} == moved("ArrowLeft")
    assert moved("ArrowUp") == {"row": 1, "column": 0} and moved("End") == {"row": 2, "column": 4}
    assert moved("Home", ctrl=True) == {"row": 0, "column": 0} and moved("x") is None
