"use strict";

// Text of models is hostile: it reaches the document as text nodes and attribute values of `el`, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { runs, compared } = data;
  const several = runs.length > 1;
  const PAGE = 50; // samples drawn at a time
  const MOST_OPEN = 12; // a cell with more samples lists them closed
  const MOST_ANNOTATED = 16; // columns; a map of narrower ones reads better by colour alone
  const NUMBER = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

  // Every tenth colour of viridis and of ColorBrewer's PuOr: both read the same without colour vision.
  const VIRIDIS = "440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725".split(" ").map(rgb);
  const DIVERGING = "7f3b08 b35806 e08214 fdb863 fee0b6 f7f7f7 d8daeb b2abd2 8073ac 542788 2d004b".split(" ").map(rgb);
  const SERIES = 6; // colours in page.css; dashes tell runs apart where colours do not
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];

  const STATES = { missing: "no sample", error: "failed samples", over_limit: "over the model's limit" };
  const MARKS = { missing: "", error: "×", over_limit: "–" };

  function rgb(hex) {
    return [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16));
  }

  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === true) node.setAttribute(name, "");
      else if (value !== false && value != null) node.setAttribute(name, value);
    }
    for (const child of children.flat()) {
      node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return node;
  }

  const lengthLabel = (tokens) => {
    for (const [unit, size] of [["m", 1048576], ["k", 1024]]) {
      const scaled = tokens / size;
      if (scaled >= 1) return (scaled >= 9.95 ? scaled.toFixed(0) : scaled.toFixed(1).replace(/\.0$/, "")) + unit;
    }
    return String(tokens);
  };
  const depthLabel = (depth) => depth.toFixed(1).replace(/\.0$/, "");
  const share = (value) => (value === 1 ? "1" : value.toFixed(2).replace(/^0/, ""));
  const signed = (value) => (Math.abs(value) < 0.005 ? "0" : (value < 0 ? "−" : "+") + share(Math.abs(value)));
  const within = (low, high) => `[${low.toFixed(2)}, ${high.toFixed(2)}]`.replace(/-/g, "−");
  const unique = (values) => [...new Set(values)];
  const ascending = (a, b) => a - b;
  const bytesLabel = (bytes) => {
    const power = bytes ? Math.min(4, Math.floor(Math.log2(bytes) / 10)) : 0;
    return `${NUMBER.format(bytes / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
  };

  function shade(scale, position) {
    const at = Math.min(Math.max(position, 0), 1) * (scale.length - 1);
    const below = Math.min(Math.floor(at), scale.length - 2);
    const mixed = scale[below].map((low, i) => Math.round(low + (at - below) * (scale[below + 1][i] - low)));
    // Black where it stands out more than white (WCAG 2.2, relative luminance): the one or the other always reaches 4.5.
    const linear = mixed.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    const light = linear[0] * 0.2126 + linear[1] * 0.7152 + linear[2] * 0.0722 > 0.179;
    return { ground: `rgb(${mixed.join(",")})`, ink: light ? "#000" : "#fff" };
  }

  // A grid of cells: one cell at a time takes part in the tab order, arrows move it.

  function grid({ name, cells, paint, training, open }) {
    const lengths = unique(cells.map((c) => c.length)).sort(ascending);
    const depths = unique(cells.map((c) => c.depth)).sort(ascending);
    const at = new Map(cells.map((c) => [`${c.length}|${c.depth}`, c]));
    const split = training ? lengths.filter((n) => n <= training).length : -1;
    const nodes = [];
    const table = el("table", { role: "grid", "aria-label": name, class: lengths.length > MOST_ANNOTATED ? "map dense" : "map" });
    const readout = el("p", { class: "readout" }, "\u00a0");
    table.append(el("colgroup", {}, el("col", { class: "head" }), lengths.map(() => el("col"))));
    if (training) table.append(trainingRow(lengths, split, training));
    const body = el("tbody");
    depths.forEach((depth, row) => {
      const line = el("tr", { role: "row" }, el("th", { scope: "row", role: "rowheader" }, depthLabel(depth)));
      nodes.push(lengths.map((length, column) => {
        const cell = at.get(`${length}|${depth}`);
        const painted = paint(cell);
        const where = `${lengthLabel(length)} tokens, depth ${depthLabel(depth)} %`;
        const node = el("td", {
          role: "gridcell", tabindex: row || column ? -1 : 0, "aria-label": `${where}: ${painted.words}`, "aria-selected": "false",
          class: `${painted.kind}${column === split ? " beyond" : ""}`, "data-length": length, "data-depth": depth,
        }, el("span", {}, painted.text));
        if (painted.ground) {
          node.style.backgroundColor = painted.ground;
          node.style.color = painted.ink;
        }
        if (painted.corner) node.append(el("sup", {}, painted.corner));
        const tell = () => { readout.textContent = `${where}: ${painted.words}`; };
        node.addEventListener("pointerenter", tell);
        node.addEventListener("focus", () => { tell(); rove(row, column); });
        node.addEventListener("click", () => { node.focus(); open(cell, node); });
        line.append(node);
        return node;
      }));
      body.append(line);
    });
    table.append(body, el("tfoot", {}, el("tr", { role: "row" }, el("td", {}), lengths.map((n) =>
      el("th", { scope: "col", role: "columnheader", class: "length" }, lengthLabel(n))))));

    let current = [0, 0];
    function rove(row, column) {
      nodes[current[0]][current[1]].tabIndex = -1;
      current = [row, column];
      nodes[row][column].tabIndex = 0;
    }
    table.addEventListener("keydown", (event) => {
      const [row, column] = current;
      const [last, right] = [nodes.length - 1, lengths.length - 1];
      const whole = event.ctrlKey || event.metaKey;
      const target = {
        ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
        Home: [whole ? 0 : row, 0], End: [whole ? last : row, right], PageUp: [0, column], PageDown: [last, column],
      }[event.key];
      if (target) nodes[Math.min(Math.max(target[0], 0), last)][Math.min(Math.max(target[1], 0), right)].focus();
      else if (event.key === "Enter" || event.key === " ") nodes[row][column].click();
      else return;
      event.preventDefault();
    });
    const axes = el("div", { class: "axes" }, el("span", { class: "y" }, "depth of the needle (%)"),
      el("div", { class: "wide" }, table), el("span", { class: "x" }, "context length (tokens)"));
    return el("div", { class: "panel" }, axes, readout);
  }

  function trainingRow(lengths, split, training) {
    const label = `trained at ${lengthLabel(training)}`;
    const cell = (span, text, side) => el("td", { colspan: span, class: `trained ${side}` }, text);
    const row = el("tr", {}, el("td", {}));
    if (training > lengths[lengths.length - 1]) row.append(cell(lengths.length, `${label}, right of the map`, "left"));
    else if (split > lengths.length / 2) row.append(cell(split, `${label} `, "left"), ...(split < lengths.length ? [cell(lengths.length - split, "", "")] : []));
    else row.append(...(split ? [cell(split, "", "")] : []), cell(lengths.length - split, label, "right"));
    return el("thead", { "aria-hidden": "true" }, row);
  }

  function paintAccuracy(cell) {
    if (!cell) return { kind: "missing", text: "", words: STATES.missing };
    if (cell.state !== "scored") {
      const count = cell.state === "error" ? `${cell.errors} ` : "";
      return { kind: cell.state, text: MARKS[cell.state] + (cell.state === "error" ? cell.errors : ""), words: count + STATES[cell.state] };
    }
    const whole = Number.isInteger(cell.correct);
    const text = whole ? `${cell.correct}/${cell.n}` : share(cell.accuracy);
    const words = [
      whole ? `${cell.correct} of ${cell.n} right` : `mean score of ${cell.n}`,
      `accuracy ${cell.accuracy.toFixed(2)} ${within(cell.ci_low, cell.ci_high)}`,
      ...(cell.nll == null ? [] : [`nll ${NUMBER.format(cell.nll)}`]),
      ...(cell.errors ? [`${cell.errors} failed`] : []),
    ].join(", ");
    return { kind: "scored", text, words, corner: cell.errors ? "×" : "", ...shade(VIRIDIS, cell.accuracy) };
  }

  function paintDifference(cell) {
    if (!cell || cell.value == null) return { kind: "missing", text: "", words: "not measured in both" };
    const how = cell.paired ? `${cell.n} pairs` : `${cell.n} unpaired`;
    const words = `${signed(cell.value)} ${within(cell.low, cell.high)}, ${how}${cell.clear ? ", interval leaves out 0" : ""}`;
    return { kind: cell.clear ? "scored clear" : "scored", text: signed(cell.value) + (cell.clear ? "*" : ""), words, ...shade(DIVERGING, (cell.value + 1) / 2) };
  }

  function scaleLegend(scale, ticks) {
    const bar = el("span", { class: "bar" });
    bar.style.backgroundImage = `linear-gradient(to right, ${scale.map((c) => `rgb(${c.join(",")})`).join(",")})`;
    return el("span", { class: "scale" }, bar, el("span", { class: "ticks" }, ticks.map((t) => el("span", {}, t))));
  }

  function drawMaps() {
    const host = document.querySelector("#maps .panels");
    const legend = document.querySelector("#maps .legend");
    const seen = new Set();
    runs.forEach((run, r) => {
      for (const map of run.maps) {
        map.cells.forEach((c) => { seen.add(c.state); if (c.errors) seen.add("error"); });
        const title = several || run.maps.length > 1 ? [several ? run.name : "", run.maps.length > 1 || several ? map.task : ""].filter(Boolean).join(" · ") : "";
        const panel = grid({
          name: `Accuracy of ${run.name}, ${map.task}`, cells: map.cells, paint: paintAccuracy, training: run.training_length,
          open: (cell, node) => openCell({ run: several ? r : "", task: map.task, length: cell.length, depth: cell.depth }, node),
        });
        if (title) panel.prepend(el("h3", {}, title));
        panel.dataset.task = map.task;
        host.append(panel);
      }
    });
    legend.append(scaleLegend(VIRIDIS, ["0", ".25", ".5", ".75", "1"]));
    for (const [state, words] of Object.entries(STATES)) {
      if (seen.has(state)) legend.append(el("span", { class: "key" }, el("span", { class: `swatch ${state}` }, MARKS[state]), words));
    }
  }

  function drawDifferences() {
    if (!compared.length) return;
    const section = document.getElementById("differences");
    section.hidden = false;
    const notes = unique(compared.flatMap((c) => c.notes));
    section.querySelector(".notes").append(...notes.map((note) => el("p", {}, note)));
    for (const other of compared) {
      for (const overall of other.overall) {
        const name = `${runs[other.run].name} minus ${runs[0].name} · ${overall.task}`;
        const panel = grid({
          name: `Difference in accuracy: ${name}`, cells: other.cells.filter((c) => c.task === overall.task), paint: paintDifference,
          open: (cell, node) => openCell({ run: "", task: overall.task, length: cell.length, depth: cell.depth }, node),
        });
        panel.prepend(el("h3", {}, name), el("p", { class: "overall" }, `overall ${paintDifference(overall).words}`));
        section.querySelector(".panels").append(panel);
      }
    }
    section.querySelector(".legend").append(scaleLegend(DIVERGING, ["−1", "−.5", "0", "+.5", "+1"]),
      el("span", { class: "key" }, el("span", { class: "swatch" }, "*"), "interval leaves out 0"),
      el("span", { class: "key" }, el("span", { class: "swatch missing" }), "not measured in both"));
  }

  // Samples: one list, narrowed by the form. A click on a cell fills the form.

  const samples = runs.flatMap((run, r) => {
    const { columns, rows } = run.samples;
    return rows.map((row) => {
      const sample = { run: r };
      columns.forEach((name, i) => { sample[name] = row[i]; });
      return sample;
    });
  });
  if (several) {
    const tasks = unique(samples.map((s) => s.task));
    samples.sort((a, b) => tasks.indexOf(a.task) - tasks.indexOf(b.task) || a.length - b.length || a.depth - b.depth || a.trial - b.trial || a.run - b.run);
  }

  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  let chosen = [];
  let drawn = 0;
  let origin = null;

  const SCORES = {
    right: ["right (1)", (s) => s.score === 1], between: ["between 0 and 1", (s) => s.score > 0 && s.score < 1],
    wrong: ["wrong (0)", (s) => s.score === 0], none: ["no score", (s) => s.score == null],
  };

  function drawFilters() {
    const select = (name, label, options) => {
      const field = el("select", { name, id: `filter-${name}` }, el("option", { value: "" }, "all"), options.map(([value, text]) => el("option", { value }, text)));
      form.append(el("label", { for: `filter-${name}` }, label, field));
    };
    const values = (name) => unique(samples.map((s) => s[name]));
    if (several) select("run", "Run", runs.map((run, r) => [r, run.name]));
    if (several || values("task").length > 1) select("task", "Task", values("task").map((t) => [t, t]));
    select("status", "Status", values("status").sort().map((s) => [s, s.replace("_", " ")]));
    select("score", "Score", Object.entries(SCORES).filter(([, [, fits]]) => samples.some(fits)).map(([key, [text]]) => [key, text]));
    select("length", "Length", values("length").sort(ascending).map((n) => [n, lengthLabel(n)]));
    select("depth", "Depth", values("depth").sort(ascending).map((d) => [d, `${depthLabel(d)} %`]));
    form.append(el("label", { for: "filter-text", class: "text" }, "Text", el("input", { type: "search", name: "text", id: "filter-text", autocomplete: "off", placeholder: "in answer, needle, question, error, id" })),
      el("button", { type: "reset" }, "Show all"));
    const changed = () => { markOrigin(null); filter(false); };
    form.querySelectorAll("select").forEach((field) => field.addEventListener("change", changed));
    form.elements.text.addEventListener("input", changed);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", (event) => { event.preventDefault(); markOrigin(null); ask({}); filter(false); });
    more.addEventListener("click", () => {
      const next = list.children.length;
      drawSamples(false);
      list.children[next]?.querySelector("summary").focus();
    });
  }

  function searched(sample) {
    sample.folded ??= [sample.answer, sample.needle, sample.question, sample.error, sample.id, sample.before, sample.after, ...sample.expected].join("\n").toLowerCase();
    return sample.folded;
  }

  function filter(open) {
    const asked = Object.fromEntries(new FormData(form));
    const text = asked.text.toLowerCase();
    const tests = ["run", "task", "status", "length", "depth"].filter((name) => asked[name]).map((name) => (s) => String(s[name]) === asked[name]);
    if (asked.score) tests.push(SCORES[asked.score][1]);
    if (text) tests.push((s) => searched(s).includes(text));
    chosen = samples.filter((s) => tests.every((fits) => fits(s)));
    document.getElementById("count").textContent = chosen.length === samples.length ? `${samples.length} samples` : `${chosen.length} of ${samples.length} samples`;
    list.replaceChildren();
    drawn = 0;
    drawSamples(open && chosen.length <= MOST_OPEN);
  }

  function drawSamples(open) {
    list.append(...chosen.slice(drawn, drawn + PAGE).map((s) => drawSample(s, open)));
    drawn = Math.min(drawn + PAGE, chosen.length);
    const left = chosen.length - drawn;
    more.hidden = !left;
    more.textContent = `Show ${Math.min(left, PAGE)} more of ${left}`;
  }

  function verdict(sample) {
    if (sample.score == null) return ["none", `× ${sample.status === "ok" ? "no score" : sample.status.replace("_", " ")}`];
    if (sample.score === 1) return ["right", "✓ right"];
    return sample.score === 0 ? ["wrong", "✗ wrong"] : ["between", `◐ ${share(sample.score)}`];
  }

  function drawSample(sample, open) {
    const [kind, words] = verdict(sample);
    const place = [several ? runs[sample.run].name : "", several || runs[0].maps.length > 1 ? sample.task : "",
      `${lengthLabel(sample.length)} · ${depthLabel(sample.depth)} % · trial ${sample.trial}`].filter(Boolean).join(" · ");
    const details = el("details", {}, el("summary", {}, el("span", { class: `verdict ${kind}` }, words), el("span", { class: "place" }, place),
      el("span", { class: "preview" }, (sample.answer || sample.error).trim().slice(0, 200))));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length === 1) details.append(sampleBody(sample));
    });
    details.open = open;
    return el("li", {}, details);
  }

  function sampleBody(sample) {
    const body = el("dl");
    const put = (term, ...value) => body.append(el("dt", {}, term), el("dd", {}, ...value));
    put("prompt", el("div", { class: "text" }, `${sample.before.length ? "… " : ""}`, sample.before, el("mark", {}, sample.needle), sample.after, " …"));
    put("question", el("div", { class: "text" }, sample.question));
    if (sample.answer_prefix) put("answer begins", el("div", { class: "text" }, sample.answer_prefix));
    put("expected", ...sample.expected.map((text) => el("div", { class: "text expected" }, text)));
    put("answer", sample.answer ? el("div", { class: "text answer" }, sample.answer) : el("em", {}, "empty"));
    if (sample.error) put("error", el("div", { class: "text" }, sample.error));
    put("status", sample.status + (sample.attempt > 1 ? `, attempt ${sample.attempt}` : ""));
    put("score", sample.score == null ? "none" : `${NUMBER.format(sample.score)} (${sample.score_name})`);
    if (sample.nll != null) put("nll", `${NUMBER.format(sample.nll)} nats a token`);
    put("depth", `${depthLabel(sample.depth)} % asked`, sample.actual_depth == null ? "" : `, ${sample.actual_depth.toFixed(2)} % actual`);
    put("tokens", `${sample.tokens.toLocaleString("en")} in the prompt, ${sample.prefill_tokens.toLocaleString("en")} read for this sample, ${NUMBER.format(sample.seconds)} s`);
    put("id", el("code", {}, sample.id));
    return body;
  }

  function markOrigin(node) {
    origin?.setAttribute("aria-selected", "false");
    origin = node;
    origin?.setAttribute("aria-selected", "true");
  }

  function ask(values) {
    for (const field of form.querySelectorAll("select, input")) field.value = String(values[field.name] ?? "");
  }

  function openCell(place, node) {
    markOrigin(node);
    ask(place);
    filter(true);
    document.getElementById("samples-title").focus();
  }

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !origin || (event.target.type === "search" && event.target.value)) return;
    origin.focus();
    markOrigin(null);
    ask({});
    filter(false);
  });

  // Curves by length, with the numbers in a table below.

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const charts = [];

  function chart(title, x, y, curves) {
    const kept = curves.map((c) => ({ ...c, points: c.points.filter((p) => p.x != null && p.y != null).sort((a, b) => a.x - b.x) })).filter((c) => c.points.length);
    if (!kept.length) return;
    // Curves by length share their places, so that one cursor reads them all. Elsewhere each point has a place of its own, for a run
    // can have several results at one cost.
    const all = kept.flatMap((c) => c.points).sort((a, b) => a.x - b.x);
    const places = x.shared ? unique(all.map((p) => p.x)) : all.map((p) => p.x);
    const columns = [places];
    const series = [{ label: x.label, value: (u, v) => (v == null ? "–" : x.print(v)) }];
    const bands = [];
    kept.forEach((curve) => {
      const at = new Map(curve.points.map((p) => [x.shared ? p.x : p, p]));
      const pick = (name) => (x.shared ? places : all).map((p) => at.get(p)?.[name] ?? null);
      const color = () => css(`--series-${curve.run % SERIES}`);
      series.push({
        label: curve.label, stroke: color, width: 2, dash: DASHES[Math.floor(curve.run + curve.task) % DASHES.length], spanGaps: true,
        points: { show: true, size: 7, fill: color }, value: (u, v) => (v == null ? "–" : y.print(v)),
      });
      columns.push(pick("y"));
      if (x.shared && curve.points.some((p) => p.low != null)) {
        bands.push({ series: [series.length, series.length + 1], fill: () => `${color()}2e` });
        columns.push(pick("high"), pick("low"));
        // Edges of the band: no line of their own, and no row in the legend.
        for (const edge of ["high", "low"]) series.push({ label: edge, stroke: "transparent", width: 0, spanGaps: true, points: { show: false }, class: "edge" });
      }
    });
    const positive = columns.slice(1).flat().every((v) => v == null || v > 0);
    const axis = (more) => ({ stroke: () => css("--ink"), grid: { stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line"), width: 1 }, font: "12px system-ui, sans-serif", labelFont: "12px system-ui, sans-serif", labelSize: 20, ...more });
    const box = el("div", { class: "plot" });
    const figure = el("figure", { class: "chart" }, el("figcaption", {}, title), box);
    document.querySelector("#curves .charts").append(figure);
    const size = () => ({ width: Math.max(240, box.clientWidth), height: 220 });
    const log = (spec, [low, high]) => (spec.log ? [low / 1.15, high * 1.15] : [low, high]);
    const plot = new uPlot({
      ...size(), padding: [8, 16, 0, 0], series, bands, legend: { live: true },
      cursor: { y: false, points: { size: 9 }, drag: { x: false, y: false } },
      scales: {
        x: { time: false, distr: x.log ? 3 : 1, log: x.log || 10, range: (u, low, high) => log(x, low === high ? [low / 2, high * 2] : [low, high]) },
        y: y.range ? { range: y.range } : { distr: positive ? 3 : 1, log: 10, range: (u, low, high) => (positive ? [low / 1.3, high * 1.3] : [0, high * 1.1 || 1]) },
      },
      axes: [
        axis({ label: x.label, size: 30, values: (u, splits) => splits.map((v) => (v == null ? "" : x.print(v))), splits: (u, i, low, high) => (x.shared ? thinned(places, low, high, size().width - 90) : ticks(low, high, x.log, 4)), filter: (u, splits) => splits }),
        axis({ label: y.label, size: 62, ...(positive && !y.range ? { splits: (u, i, low, high) => ticks(low, high, y.log, 7), filter: (u, splits) => splits } : {}), values: (u, splits) => splits.map((v) => (v == null ? "" : y.print(v))) }),
      ],
    }, columns, box);
    for (const row of plot.root.querySelectorAll(".edge")) row.remove();
    plot.root.querySelector("canvas").setAttribute("role", "img");
    plot.root.querySelector("canvas").setAttribute("aria-label", `${title}; the numbers are in the table below`);
    charts.push({ plot, size });
  }

  // Round numbers of a logarithmic axis: powers of the base, and numbers between them where there are few.
  function ticks(low, high, base, most) {
    const factors = base === 2 ? [[1], [1, 4, 16, 64, 256], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]] : [[1], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9]];
    const unit = base === 2 ? 1024 : 10;
    const [first, last] = [low, high].map((v) => Math.floor(Math.log(v) / Math.log(unit)));
    let found = [];
    for (const set of factors) {
      found = [];
      for (let power = first; power <= last; power++) found.push(...set.map((f) => f * unit ** power).filter((v) => v >= low && v <= high));
      if (found.length >= 3) break;
    }
    const step = Math.ceil(found.length / most);
    return found.filter((_, i) => i % step === 0);
  }

  // Lengths whose labels do not touch their left neighbour's.
  function thinned(places, low, high, width) {
    const pixel = (v) => (width * Math.log(v / low)) / Math.log(high / low);
    return places.reduce((kept, v) => (kept.length && pixel(v) - pixel(kept[kept.length - 1]) < 34 ? kept : [...kept, v]), []);
  }

  function curvesOf(points) {
    return runs.flatMap((run, r) => run.maps.map((map, task) => ({
      run: r, task, points: points(run, map.task),
      label: [several ? run.name : "", run.maps.length > 1 ? map.task : ""].filter(Boolean).join(" · ") || run.name,
    })));
  }

  const TOKENS = { label: "context length (tokens)", print: lengthLabel, log: 2, shared: true };
  const ACCURACY = { label: "accuracy", print: (v) => String(Number(v.toFixed(2))), range: [-0.02, 1.02] };
  const SECONDS = (label) => ({ label, print: (v) => NUMBER.format(v), log: 10 });
  const BYTES = { label: "peak memory", print: bytesLabel, log: 2 };
  const costOf = (run, task) => (run.cost || []).filter((row) => !row.task || row.task === task);

  function drawCurves() {
    const lengths = (run, task) => run.lengths.filter((l) => l.task === task);
    const costs = (name, spread) => curvesOf((run, task) => costOf(run, task).map((c) => ({ x: c.length, y: c[name], low: c[`${spread}_min`], high: c[`${spread}_max`] })));
    const against = (name) => curvesOf((run, task) => lengths(run, task).map((l) => ({
      x: costOf(run, task).find((c) => c.length === l.length)?.[name], y: l.accuracy, low: l.ci_low, high: l.ci_high,
    })));
    chart("Accuracy by length, all depths, 95 % interval", TOKENS, ACCURACY, curvesOf((run, task) => lengths(run, task).map((l) => ({ x: l.length, y: l.accuracy, low: l.ci_low, high: l.ci_high }))));
    chart("Accuracy by the needle's distance from the end, 95 % interval", { ...TOKENS, label: "distance below (tokens)" }, ACCURACY, curvesOf((run, task) => run.distances.filter((d) => d.task === task).map((d) => ({ x: d.below, y: d.accuracy, low: d.ci_low, high: d.ci_high }))));
    chart("Mean seconds a sample, as this run answered it", TOKENS, SECONDS("seconds"), curvesOf((run, task) => lengths(run, task).map((l) => ({ x: l.length, y: l.seconds }))));
    chart("Seconds to read a prompt from cold", TOKENS, SECONDS("seconds"), costs("prefill_seconds", "prefill"));
    chart("Seconds to the first token", TOKENS, SECONDS("seconds"), costs("first_token_seconds", "first_token"));
    chart("Milliseconds a generated token", TOKENS, SECONDS("ms"), costs("ms_per_token", "ms_per_token"));
    chart("Peak memory above the loaded model", TOKENS, BYTES, costs("peak_bytes", "peak"));
    chart("Accuracy against seconds to read the prompt", SECONDS("seconds"), ACCURACY, against("prefill_seconds"));
    chart("Accuracy against memory", BYTES, ACCURACY, against("peak_bytes"));
    drawLengths();
    new ResizeObserver(() => charts.forEach(({ plot, size }) => { if (plot.width !== size().width) plot.setSize(size()); })).observe(document.querySelector("#curves .charts"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(({ plot }) => plot.redraw()));
  }

  function drawLengths() {
    const costs = ["prefill_seconds", "first_token_seconds", "ms_per_token", "tokens_per_second", "peak_bytes"].filter((name) => runs.some((run) => (run.cost || []).some((c) => c[name] != null)));
    const head = ["length", ...(several ? ["run"] : []), ...(several || runs[0].maps.length > 1 ? ["task"] : []), "n", "accuracy", "95 % interval", "failed", "s a sample",
      ...(compared.length ? ["difference", "95 % interval"] : []), ...costs.map((name) => name.replaceAll("_", " "))];
    const rows = runs.flatMap((run, r) => run.lengths.map((l, at) => ({ ...l, r, run, at }))).sort((a, b) => a.length - b.length || a.r - b.r || a.at - b.at);
    const line = (l) => {
      const other = compared.find((c) => c.run === l.r)?.lengths.find((d) => d.length === l.length && d.task === l.task);
      const cost = costOf(l.run, l.task).find((c) => c.length === l.length) || {};
      const number = (v) => (v == null ? "" : NUMBER.format(v));
      return [lengthLabel(l.length), ...(several ? [l.run.name] : []), ...(several || runs[0].maps.length > 1 ? [l.task] : []), l.n,
        l.accuracy == null ? "" : l.accuracy.toFixed(3), l.accuracy == null ? "" : within(l.ci_low, l.ci_high), l.errors || "", number(l.seconds),
        ...(compared.length ? (other && other.value != null ? [signed(other.value) + (other.clear ? "*" : ""), within(other.low, other.high)] : ["", ""]) : []),
        ...costs.map((name) => (name === "peak_bytes" && cost[name] != null ? bytesLabel(cost[name]) : number(cost[name])))];
    };
    document.getElementById("lengths").append(el("thead", {}, el("tr", {}, head.map((h) => el("th", { scope: "col" }, h)))),
      el("tbody", {}, rows.map((l) => el("tr", {}, line(l).map((v, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }, v))))));
  }

  function drawFacts() {
    const host = document.getElementById("facts");
    const names = unique(runs.flatMap((run) => run.facts.map(([name]) => name)));
    if (!several) {
      host.append(el("dl", { class: "facts" }, runs[0].facts.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
      return;
    }
    host.append(el("div", { class: "wide" }, el("table", {}, el("thead", {}, el("tr", {}, ["run", ...names].map((n) => el("th", { scope: "col" }, n)))),
      el("tbody", {}, runs.map((run) => el("tr", {}, el("th", { scope: "row" }, run.name), names.map((n) => el("td", {}, Object.fromEntries(run.facts)[n] ?? ""))))))));
  }

  // A task's name leads to its map, and narrows the samples to the task.
  function taskName(name) {
    const panel = [...document.querySelectorAll("#maps .panel")].find((p) => p.dataset.task === name);
    if (!panel) return name;
    panel.id ||= `map-${data.tasks.rows.findIndex((row) => row.task === name)}`;
    const link = el("a", { href: `#${panel.id}` }, name);
    link.addEventListener("click", () => { markOrigin(null); ask({ task: name }); filter(false); });
    return link;
  }

  function drawTasks() {
    if (!data.tasks) return;
    const { caption, columns, rows } = data.tasks;
    const section = document.getElementById("tasks");
    section.hidden = false;
    document.body.classList.add("suite");
    const value = ({ text, share: at }) => {
      const cell = el("td", {}, text);
      if (at != null) {
        const { ground, ink } = shade(VIRIDIS, at);
        cell.style.backgroundColor = ground;
        cell.style.color = ink;
      }
      return cell;
    };
    const line = ({ task, values }, average) => el("tr", {}, el("th", { scope: "row" }, average ? task : taskName(task)), values.map(value));
    section.querySelector(".wide").append(el("table", {}, el("caption", {}, caption),
      el("thead", {}, el("tr", {}, ["task", ...columns].map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows.slice(0, -1).map((row) => line(row, false))),
      el("tfoot", {}, rows.slice(-1).map((row) => line(row, true)))));
  }

  function drawManifests() {
    for (const run of runs) {
      const shown = el("pre", { tabindex: "0" });
      const details = el("details", { class: "manifest" }, el("summary", {}, several ? `run.json of ${run.name}` : "run.json"), shown);
      details.addEventListener("toggle", () => { shown.textContent ||= JSON.stringify(run.manifest, null, 2); });
      document.getElementById("runs").append(details);
    }
  }

  document.body.classList.toggle("several", several);
  drawFacts();
  drawMaps();
  drawDifferences();
  drawFilters();
  filter(false);
  drawTasks();
  drawManifests();
  performance.mark("drawn");
  // The maps are seen before the curves are computed.
  requestAnimationFrame(() => setTimeout(drawCurves));
})();
