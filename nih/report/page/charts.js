// Curves by length, with the numbers in a table below.

const SERIES = 6; // colours in page.css; dashes tell runs apart where colours do not
const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3]];
const FONT = "12px system-ui, sans-serif";

// An axis: its label, how its numbers are printed, the base of its logarithmic scale, or its range if it is linear.
// `shared`: all curves have their points at the same places, so that one cursor reads them all.
const TOKENS = { label: "context length (tokens)", print: lengthLabel, log: 2, shared: true };
const DISTANCE = { ...TOKENS, label: "distance below (tokens)" };
const ACCURACY = { label: "accuracy", print: (value) => String(Number(value.toFixed(2))), range: [-0.02, 1.02] };
const READ = { label: "tokens read per sample", print: lengthLabel, log: 2 };
const SECONDS = { label: "seconds", print: (value) => NUMBER.format(value), log: 10 };
const MILLISECONDS = { ...SECONDS, label: "ms" };
const BYTES = { label: "peak memory", print: bytesLabel, log: 2 };

// Round numbers of a logarithmic axis, at most `most`: powers of the base, with numbers between if those are few.
const FACTORS = {
  2: [[1], [1, 4, 16, 64, 256], [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]],
  10: [
    [1],
    [1, 2, 5],
    [1, 2, 3, 4, 5, 6, 7, 8, 9],
    [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9],
  ],
};

function ticks(low, high, base, most) {
  const unit = base === 2 ? 1024 : 10;
  const [first, last] = [low, high].map((value) => Math.floor(Math.log(value) / Math.log(unit)));
  const powers = Array.from({ length: last - first + 1 }, (_, i) => unit ** (first + i));
  let found = [];
  for (const factors of FACTORS[base]) {
    found = powers.flatMap((power) => factors.map((f) => f * power)).filter((v) => v >= low && v <= high);
    if (found.length >= 3) break;
  }
  const step = Math.ceil(found.length / most);
  return found.filter((_, i) => i % step === 0);
}

// Places whose labels do not touch their left neighbour's, on a logarithmic axis of `width` pixels.
function thinned(places, low, high, width) {
  const pixel = (value) => (width * Math.log(value / low)) / Math.log(high / low);
  const kept = [];
  for (const place of places) {
    if (!kept.length || pixel(place) - pixel(kept[kept.length - 1]) >= 34) kept.push(place);
  }
  return kept;
}

// Curves -> uPlot's columns. Where places are not shared, each point has a place of its own, because a run can have
// several results at one cost. A curve with bounds has two more columns, the edges of its band.
function columnsOf(curves, shared) {
  const all = curves.flatMap((curve) => curve.points).sort((a, b) => a.x - b.x);
  const places = shared ? unique(all.map((point) => point.x)) : all.map((point) => point.x);
  const columns = curves.map(({ points }) => {
    const at = new Map(points.map((point) => [shared ? point.x : point, point]));
    const pick = (name) => (shared ? places : all).map((key) => at.get(key)?.[name] ?? null);
    const banded = shared && points.some((point) => point.low != null);
    return [pick("y"), ...(banded ? [pick("high"), pick("low")] : [])];
  });
  return { places, columns };
}

const themed = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const printed = (axis) => (plot, value) => (value == null ? "–" : axis.print(value));

// A curve's line, and the edges of its band: they have no line of their own.
function seriesOf({ run, task, label, floor }, y, banded) {
  const color = () => themed(`--series-${run % SERIES}`);
  const edge = (name) => ({
    label: name, stroke: "transparent", width: 0, spanGaps: true, points: { show: false }, class: "edge",
  });
  const line = {
    label,
    stroke: color,
    width: floor ? 1 : 2,
    dash: floor ? [1, 3] : DASHES[(run + task) % DASHES.length],
    spanGaps: true,
    points: { show: !floor, size: 7, fill: color },
    value: printed(y),
  };
  return { color, series: banded ? [line, edge("high"), edge("low")] : [line] };
}

function scalesOf(x, y, positive) {
  const widened = (low, high) => (low === high ? [low / 2, high * 2] : [low, high]);
  const xRange = (plot, ...ends) => {
    const [low, high] = widened(...ends);
    return [low / 1.15, high * 1.15];
  };
  const yRange = (plot, low, high) => (positive ? [low / 1.3, high * 1.3] : [0, high * 1.1 || 1]);
  return {
    x: { time: false, distr: 3, log: x.log, range: xRange },
    y: y.range ? { range: y.range } : { distr: positive ? 3 : 1, log: 10, range: yRange },
  };
}

function axesOf(x, y, positive, places, width) {
  const axis = ({ label, print }, size, splits) => ({
    label,
    size,
    labelSize: 20,
    font: FONT,
    labelFont: FONT,
    stroke: () => themed("--ink"),
    grid: { stroke: () => themed("--line"), width: 1 },
    ticks: { stroke: () => themed("--line"), width: 1 },
    values: (plot, found) => found.map((value) => (value == null ? "" : print(value))),
    ...(splits && { splits: (plot, i, low, high) => splits(low, high), filter: (plot, found) => found }),
  });
  const across = (low, high) => (x.shared ? thinned(places, low, high, width() - 90) : ticks(low, high, x.log, 4));
  const up = positive && !y.range && ((low, high) => ticks(low, high, y.log, 7));
  return [axis(x, 30, across), axis(y, 62, up)];
}

// Returns a list of one { plot, size }; it is empty if no curve has a point.
function chart(title, x, y, curves) {
  const known = curves.map((curve) => {
    const points = curve.points.filter((point) => point.x != null && point.y != null);
    return { ...curve, points: points.sort((a, b) => a.x - b.x) };
  });
  const kept = known.filter((curve) => curve.points.length);
  if (!kept.length) return [];
  const { places, columns } = columnsOf(kept, x.shared);
  const series = [{ label: x.label, value: printed(x) }];
  const bands = [];
  kept.forEach((curve, i) => {
    const made = seriesOf(curve, y, columns[i].length > 1);
    series.push(...made.series);
    if (made.series.length > 1) {
      bands.push({ series: [series.length - 2, series.length - 1], fill: () => `${made.color()}2e` });
    }
  });
  const positive = columns.flat(2).every((value) => value == null || value > 0);
  const box = el("div", { class: "plot" });
  document.querySelector("#curves .charts").append(
    el("figure", { class: "chart" }, el("figcaption", {}, title), box));
  const size = () => ({ width: Math.max(240, box.clientWidth), height: 220 });
  const plot = new uPlot({
    ...size(),
    padding: [8, 16, 0, 0],
    series,
    bands,
    legend: { live: true },
    cursor: { y: false, points: { size: 9 }, drag: { x: false, y: false } },
    scales: scalesOf(x, y, positive),
    axes: axesOf(x, y, positive, places, () => size().width),
  }, [places, ...columns.flat()], box);
  for (const row of plot.root.querySelectorAll(".edge")) row.remove(); // not in the legend either
  const canvas = plot.root.querySelector("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title}; the numbers are in the table below`);
  return [{ plot, size }];
}

const costOf = (run, task) => (run.cost || []).filter((row) => !row.task || row.task === task);
const costAt = (run, task, length) => costOf(run, task).find((row) => row.length === length) || {};

function drawCurves(view) {
  const { runs, several } = view;
  const curves = (points) => runs.flatMap((run, r) => run.maps.map(({ task }, place) => ({
    run: r,
    task: place,
    label: joined(several && run.name, run.maps.length > 1 && task) || run.name,
    points: points(run, task),
  })));
  const bounds = ({ accuracy, ci_low, ci_high }) => ({ y: accuracy, low: ci_low, high: ci_high });
  const byLength = (point) => curves((run, task) =>
    run.lengths.filter((row) => row.task === task).map((row) => point(row, run)));
  const byDistance = curves((run, task) =>
    run.distances.filter((row) => row.task === task).map((row) => ({ x: row.below, ...bounds(row) })));
  const costs = (name, spread) => curves((run, task) => costOf(run, task).map((row) =>
    ({ x: row.length, y: row[name], low: row[`${spread}_min`], high: row[`${spread}_max`] })));
  const against = (name) => byLength((row, run) => ({ x: costAt(run, row.task, row.length)[name], ...bounds(row) }));
  const accuracies = byLength((row) => ({ x: row.length, ...bounds(row) }));
  // What is scored without finding what is asked for: a thin line per task, at the highest of its floors.
  const floors = runs.flatMap((run, r) => run.maps.filter(({ task }) => run.floors?.[task]).map(({ task }) => {
    const [how, floor] = Object.entries(run.floors[task]).sort((a, b) => b[1] - a[1])[0];
    const label = joined(several && run.name, run.maps.length > 1 && task, `floor: ${how}`);
    const points = run.lengths.filter((row) => row.task === task).map((row) => ({ x: row.length, y: floor }));
    return { run: r, task: 0, label, points, floor: true };
  }));
  const charts = [
    chart("Accuracy by length, all depths, 95 % interval", TOKENS, ACCURACY, [...accuracies, ...floors]),
    chart("Accuracy by the needle's distance from the end, 95 % interval", DISTANCE, ACCURACY, byDistance),
    chart("Mean seconds per sample, as this run answered it", TOKENS, SECONDS,
      byLength((row) => ({ x: row.length, y: row.seconds }))),
    chart("Seconds to read a prompt from cold", TOKENS, SECONDS, costs("prefill_seconds", "prefill")),
    chart("Seconds to the first token", TOKENS, SECONDS, costs("first_token_seconds", "first_token")),
    chart("Milliseconds per generated token", TOKENS, MILLISECONDS, costs("ms_per_token", "ms_per_token")),
    chart("Peak memory above the loaded model", TOKENS, BYTES, costs("peak_bytes", "peak")),
    chart("Accuracy against tokens read", READ, ACCURACY, byLength((row) => ({ x: row.tokens, ...bounds(row) }))),
    chart("Accuracy against seconds to read the prompt", SECONDS, ACCURACY, against("prefill_seconds")),
    chart("Accuracy against memory", BYTES, ACCURACY, against("peak_bytes")),
  ].flat();
  drawLengths(view);
  const fit = ({ plot, size }) => plot.width !== size().width && plot.setSize(size());
  new ResizeObserver(() => charts.forEach(fit)).observe(document.querySelector("#curves .charts"));
  const redraw = () => charts.forEach(({ plot }) => plot.redraw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

const COSTS = ["prefill_seconds", "first_token_seconds", "ms_per_token", "tokens_per_second", "peak_bytes"];

// A column is its head and the value of a row; columns that would be the same or empty in all rows are left out.
function drawLengths({ runs, compared, several }) {
  const number = (v) => (v == null ? "" : NUMBER.format(v));
  const scored = (print) => (row) => (row.accuracy == null ? "" : print(row));
  const cost = (row) => costAt(row.run, row.task, row.length);
  const differing = (print) => ({ r, length, task }) => {
    const other = compared.find((c) => c.run === r)?.lengths.find((d) => d.length === length && d.task === task);
    return other?.value == null ? "" : print(other);
  };
  const measured = COSTS.filter((name) => runs.some((run) => (run.cost || []).some((row) => row[name] != null)));
  const costColumns = measured.map((name) => {
    const print = (v) => (name === "peak_bytes" && v != null ? bytesLabel(v) : number(v));
    return [name.replaceAll("_", " "), (row) => print(cost(row)[name])];
  });
  const columns = [
    ["length", (row) => lengthLabel(row.length)],
    several && ["run", (row) => row.run.name],
    (several || runs[0].maps.length > 1) && ["task", (row) => row.task],
    ["n", (row) => row.n],
    ["accuracy", scored((row) => row.accuracy.toFixed(3))],
    ["95 % interval", scored((row) => interval(row.ci_low, row.ci_high))],
    ["failed", (row) => row.errors || ""],
    runs.some((run) => run.lengths.some((row) => row.no_answer)) && ["no answer", (row) => row.no_answer || ""],
    runs.some((run) => run.lengths.some((row) => row.tokens != null)) &&
      ["tokens read", (row) => (row.tokens == null ? "" : Math.round(row.tokens).toLocaleString("en"))],
    ["s per sample", (row) => number(row.seconds)],
    compared.length && ["difference", differing((d) => signed(d.value) + (d.clear ? "*" : ""))],
    compared.length && ["95 % interval", differing((d) => interval(d.low, d.high))],
    ...costColumns,
  ].filter(Boolean);
  const rows = runs.flatMap((run, r) => run.lengths.map((row, at) => ({ ...row, r, run, at })));
  rows.sort((a, b) => a.length - b.length || a.r - b.r || a.at - b.at);
  const lines = rows.map((row) => columns.map(([, print], i) => (i ? value : rowHead)(print(row))));
  fill(document.getElementById("lengths"), columns.map(([head]) => head), lines);
}
