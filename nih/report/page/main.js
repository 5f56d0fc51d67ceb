// The page: its data is JSON in the element `data`, drawn from top to bottom.

function drawFacts({ runs, several }) {
  const host = document.getElementById("facts");
  if (!several) {
    const facts = runs[0].facts.map(([name, words]) => el("div", {}, el("dt", {}, name), el("dd", {}, words)));
    host.append(el("dl", { class: "facts" }, facts));
    return;
  }
  const names = unique(runs.flatMap((run) => run.facts.map(([name]) => name)));
  const lines = runs.map((run) => {
    const facts = Object.fromEntries(run.facts);
    return [rowHead(run.name), ...names.map((name) => value(facts[name] ?? ""))];
  });
  host.append(el("div", { class: "wide" }, fill(el("table"), ["run", ...names], lines)));
}

function drawTasks({ tasks }, showTask) {
  if (!tasks) return;
  const section = document.getElementById("tasks");
  section.hidden = false;
  document.body.classList.add("suite");
  const panels = [...document.querySelectorAll("#maps .panel")];
  // A task's name leads to its map, and narrows the samples to the task.
  const linked = (name, place) => {
    const panel = panels.find((each) => each.dataset.task === name);
    if (!panel) return name;
    panel.id ||= `map-${place}`;
    const link = el("a", { href: `#${panel.id}` }, name);
    link.addEventListener("click", () => showTask(name));
    return link;
  };
  const colored = ({ text, share }) => {
    const cell = value(text);
    if (share != null) paint(cell, shade(VIRIDIS, share));
    return cell;
  };
  const last = tasks.rows.length - 1; // the average
  const lines = tasks.rows.map(({ task, values }, place) =>
    [rowHead(place === last ? task : linked(task, place)), ...values.map(colored)]);
  const drawn = el("table", {}, el("caption", {}, tasks.caption));
  fill(drawn, ["task", ...tasks.columns], lines.slice(0, last), lines.slice(last));
  section.querySelector(".wide").append(drawn);
}

// Recall by task and length, with a column for each depth.
function drawRecall({ runs, several }) {
  const searched = runs.filter((run) => run.retrieval);
  if (!searched.length) return;
  const section = document.getElementById("retrieval");
  section.hidden = false;
  const all = searched.flatMap((run) => run.retrieval.map((line) => ({ run, ...line })));
  const depths = unique(all.flatMap((line) => line.depths.map(({ depth }) => depth))).sort(ascending);
  const share = (number) => (number == null ? value("") : value(number.toFixed(2)));
  const colored = ({ depths: own }, depth) => {
    const found = own.find((each) => each.depth === depth);
    const cell = value(found ? fraction(found.recall) : "");
    if (found) paint(cell, shade(VIRIDIS, found.recall));
    return cell;
  };
  const count = (number) => value(Math.round(number).toLocaleString("en"));
  const columns = [
    several && ["run", (line) => value(line.run.name)],
    ["task", (line) => rowHead(line.task)],
    ["length", (line) => value(line.length == null ? "all" : lengthLabel(line.length))],
    ["n", (line) => value(line.n)],
    ["recall", (line) => value(line.recall.toFixed(2))],
    ["95 % interval", (line) => value(interval(line.ci_low, line.ci_high))],
    ...depths.map((depth) => [`${depthLabel(depth)} %`, (line) => colored(line, depth)]),
    ["all hidden", (line) => share(line.needles)],
    ["accuracy, found", (line) => share(line.accuracy_found)],
    ["missed", (line) => share(line.accuracy_missed)],
    ["tokens read", (line) => count(line.tokens)],
    ["of", (line) => count(line.context_tokens)],
    all.some((line) => line.read_whole) && ["read whole", (line) => value(line.read_whole || "")],
  ].filter(Boolean);
  const lines = all.map((line) => columns.map(([, print]) => print(line)));
  section.querySelector(".wide").append(fill(el("table"), columns.map(([head]) => head), lines));
}

function drawManifests({ runs, several }) {
  for (const run of runs) {
    const shown = el("pre", { tabindex: "0" });
    const title = several ? `run.json of ${run.name}` : "run.json";
    const details = el("details", { class: "manifest" }, el("summary", {}, title), shown);
    details.addEventListener("toggle", () => {
      shown.textContent ||= JSON.stringify(run.manifest, null, 2);
    });
    document.getElementById("runs").append(details);
  }
}

function drawPage() {
  const view = JSON.parse(document.getElementById("data").textContent);
  view.several = view.runs.length > 1;
  document.body.classList.toggle("several", view.several);
  const samples = drawSamples(view);
  drawFacts(view);
  drawMaps(view, samples.showCell);
  drawDifferences(view, samples.showCell);
  drawTasks(view, samples.showTask);
  drawRecall(view);
  drawManifests(view);
  performance.mark("drawn");
  // The maps are seen before the curves are computed.
  requestAnimationFrame(() => setTimeout(() => drawCurves(view)));
}

drawPage();
