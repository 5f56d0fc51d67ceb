// Maps of cells: depth (rows) x length (columns), coloured by accuracy or by difference.

const MOST_ANNOTATED = 16; // columns; a map of narrower ones reads better by colour alone
const STATES = {
  missing: "no sample",
  error: "failed samples",
  no_answer: "no answer",
  over_limit: "over the model's limit",
  not_asked: "not asked: two shorter lengths are below, or the budget is spent",
};
const MARKS = { missing: "", error: "×", no_answer: "?", over_limit: "–", not_asked: "○" };

// A grid of cells: one cell at a time takes part in the tab order, arrows move it.
function grid({ name, cells, look, training, open }) {
  const lengths = unique(cells.map((c) => c.length)).sort(ascending);
  const depths = unique(cells.map((c) => c.depth)).sort(ascending);
  const at = new Map(cells.map((c) => [`${c.length}|${c.depth}`, c]));
  const split = training ? lengths.filter((n) => n <= training).length : -1;
  const readout = el("p", { class: "readout" }, "\u00a0");
  const current = { row: 0, column: 0 };

  function square(length, depth, row, column) {
    const cell = at.get(`${length}|${depth}`);
    const seen = look(cell);
    const words = `${lengthLabel(length)} tokens, depth ${depthLabel(depth)} %: ${seen.words}`;
    const node = el("td", {
      role: "gridcell",
      tabindex: row || column ? -1 : 0,
      "aria-label": words,
      "aria-selected": "false",
      class: `${seen.kind}${column === split ? " beyond" : ""}`,
      "data-length": length,
      "data-depth": depth,
    }, el("span", {}, seen.text));
    paint(node, seen);
    if (seen.corner) node.append(el("sup", {}, seen.corner));
    const tell = () => { readout.textContent = words; };
    node.addEventListener("pointerenter", tell);
    node.addEventListener("focus", () => {
      tell();
      nodes[current.row][current.column].tabIndex = -1;
      Object.assign(current, { row, column });
      node.tabIndex = 0;
    });
    node.addEventListener("click", () => {
      node.focus();
      open({ length, depth }, node);
    });
    return node;
  }

  const nodes = depths.map((depth, row) => lengths.map((length, column) => square(length, depth, row, column)));
  const lines = depths.map((depth, row) => el("tr", { role: "row" },
    el("th", { scope: "row", role: "rowheader" }, depthLabel(depth)), nodes[row]));
  const foot = lengths.map((n) => el("th", { scope: "col", role: "columnheader", class: "length" }, lengthLabel(n)));
  const dense = lengths.length > MOST_ANNOTATED ? "map dense" : "map";
  const map = el("table", { role: "grid", "aria-label": name, class: dense },
    el("colgroup", {}, el("col", { class: "head" }), lengths.map(() => el("col"))),
    training ? trainingRow(lengths, split, training) : [],
    el("tbody", {}, lines),
    el("tfoot", {}, el("tr", { role: "row" }, el("td", {}), foot)));
  map.addEventListener("keydown", (event) => {
    const target = moved(event, current, nodes.length - 1, lengths.length - 1);
    if (target) nodes[target.row][target.column].focus();
    else if (event.key === "Enter" || event.key === " ") nodes[current.row][current.column].click();
    else return;
    event.preventDefault();
  });
  return el("div", { class: "panel" },
    el("div", { class: "axes" },
      el("span", { class: "y" }, "depth of the needle (%)"),
      el("div", { class: "wide" }, map),
      el("span", { class: "x" }, "context length (tokens)")),
    readout);
}

// Where a key leads from a cell, within the last row and column; undefined for keys that do not move.
function moved({ key, ctrlKey, metaKey }, { row, column }, lastRow, lastColumn) {
  const whole = ctrlKey || metaKey;
  const target = {
    ArrowUp: [row - 1, column],
    ArrowDown: [row + 1, column],
    ArrowLeft: [row, column - 1],
    ArrowRight: [row, column + 1],
    Home: [whole ? 0 : row, 0],
    End: [whole ? lastRow : row, lastColumn],
    PageUp: [0, column],
    PageDown: [lastRow, column],
  }[key];
  const inside = (value, last) => Math.min(Math.max(value, 0), last);
  return target && { row: inside(target[0], lastRow), column: inside(target[1], lastColumn) };
}

// The row above a map that names the training length, on the roomier side of its line.
function trainingRow(lengths, split, training) {
  const label = `trained at ${lengthLabel(training)}`;
  const cell = (span, text, side) => (span ? [el("td", { colspan: span, class: `trained ${side}` }, text)] : []);
  const after = lengths.length - split;
  let cells;
  if (training > lengths[lengths.length - 1]) cells = cell(lengths.length, `${label}, right of the map`, "left");
  else if (split > lengths.length / 2) cells = [...cell(split, `${label} `, "left"), ...cell(after, "", "")];
  else cells = [...cell(split, "", ""), ...cell(after, label, "right")];
  return el("thead", { "aria-hidden": "true" }, el("tr", {}, el("td", {}), cells));
}

// What a cell has of samples without a score, although they were asked: [state, count].
const unscored = (cell) => [["error", cell.errors], ["no_answer", cell.no_answer]].filter(([, count]) => count);

function accuracyLook(cell) {
  if (!cell) return { kind: "missing", text: "", words: STATES.missing };
  if (cell.state !== "scored") {
    const counts = unscored(cell).map(([state, count]) => `${count} ${STATES[state]}`);
    const text = unscored(cell).map(([state, count]) => MARKS[state] + count).join(" ");
    return { kind: cell.state, text: text || MARKS[cell.state], words: counts.join(", ") || STATES[cell.state] };
  }
  const whole = Number.isInteger(cell.correct);
  const words = [
    whole ? `${cell.correct} of ${cell.n} right` : `mean score of ${cell.n}`,
    `accuracy ${cell.accuracy.toFixed(2)} ${interval(cell.ci_low, cell.ci_high)}`,
  ];
  if (cell.nll != null) words.push(`nll ${NUMBER.format(cell.nll)}`);
  if (cell.errors) words.push(`${cell.errors} failed`);
  if (cell.no_answer) words.push(`${cell.no_answer} ${STATES.no_answer}`);
  return {
    kind: "scored",
    text: whole ? `${cell.correct}/${cell.n}` : fraction(cell.accuracy),
    words: words.join(", "),
    corner: unscored(cell).map(([state]) => MARKS[state]).join(""),
    ...shade(VIRIDIS, cell.accuracy),
  };
}

function differenceLook(cell) {
  if (!cell || cell.value == null) return { kind: "missing", text: "", words: "not measured in both" };
  const words = [`${signed(cell.value)} ${interval(cell.low, cell.high)}`];
  words.push(cell.paired ? `${cell.n} pairs` : `${cell.n} unpaired`);
  if (cell.clear) words.push("interval leaves out 0");
  return {
    kind: cell.clear ? "scored clear" : "scored",
    text: signed(cell.value) + (cell.clear ? "*" : ""),
    words: words.join(", "),
    ...shade(DIVERGING, (cell.value + 1) / 2),
  };
}

function scaleLegend(colors, ticks) {
  const bar = el("span", { class: "bar" });
  bar.style.backgroundImage = `linear-gradient(to right, ${colors.map(css).join(",")})`;
  return el("span", { class: "scale" }, bar, el("span", { class: "ticks" }, ticks.map((t) => el("span", {}, t))));
}

const legendKey = (kind, mark, words) => el("span", { class: "key" },
  el("span", { class: `swatch ${kind}`.trim() }, mark), words);

// `open(place, node)` shows the samples of a cell; `place` holds the values of the filters.
function drawMaps({ runs, several }, open) {
  const host = document.querySelector("#maps .panels");
  runs.forEach((run, r) => run.maps.forEach((map) => {
    const panel = grid({
      name: `Accuracy of ${run.name}, ${map.task}`,
      cells: map.cells,
      look: accuracyLook,
      training: run.training_length,
      open: ({ length, depth }, node) => open({ run: several ? r : "", task: map.task, length, depth }, node),
    });
    const title = joined(several && run.name, (several || run.maps.length > 1) && map.task);
    if (title) panel.prepend(el("h3", {}, title));
    panel.dataset.task = map.task;
    host.append(panel);
  }));
  const cells = runs.flatMap((run) => run.maps.flatMap((map) => map.cells));
  const shown = Object.keys(STATES).filter((state) =>
    cells.some((cell) => cell.state === state || unscored(cell).some(([name]) => name === state)));
  document.querySelector("#maps .legend").append(
    scaleLegend(VIRIDIS, ["0", ".25", ".5", ".75", "1"]),
    ...shown.map((state) => legendKey(state, MARKS[state], STATES[state])));
}

function drawDifferences({ runs, compared }, open) {
  if (!compared.length) return;
  const section = document.getElementById("differences");
  section.hidden = false;
  const notes = unique(compared.flatMap((other) => other.notes));
  section.querySelector(".notes").append(...notes.map((note) => el("p", {}, note)));
  const panels = compared.flatMap((other) => other.overall.map((overall) => {
    const name = `${runs[other.run].name} minus ${runs[0].name} · ${overall.task}`;
    const panel = grid({
      name: `Difference in accuracy: ${name}`,
      cells: other.cells.filter((cell) => cell.task === overall.task),
      look: differenceLook,
      open: ({ length, depth }, node) => open({ run: "", task: overall.task, length, depth }, node),
    });
    panel.prepend(el("h3", {}, name), el("p", { class: "overall" }, `overall ${differenceLook(overall).words}`));
    return panel;
  }));
  section.querySelector(".panels").append(...panels);
  section.querySelector(".legend").append(
    scaleLegend(DIVERGING, ["−1", "−.5", "0", "+.5", "+1"]),
    legendKey("", "*", "interval leaves out 0"),
    legendKey("missing", "", "not measured in both"));
}
