// Samples: one list, narrowed by the form. A click on a cell fills the form.

const PAGE = 50; // samples drawn at a time
const MOST_OPEN = 12; // a cell with more samples lists them closed
const EXACT = ["run", "task", "status", "length", "depth"]; // filters that ask for one value
const SCORES = {
  right: { label: "right (1)", fits: (s) => s.score === 1 },
  between: { label: "between 0 and 1", fits: (s) => s.score > 0 && s.score < 1 },
  wrong: { label: "wrong (0)", fits: (s) => s.score === 0 },
  none: { label: "no score", fits: (s) => s.score == null },
};

// All samples, each an object with its columns and its run's number; those of several runs stand side by side.
function allSamples({ runs, several }) {
  const samples = runs.flatMap(({ samples: { columns, rows } }, run) =>
    rows.map((row) => ({ run, ...Object.fromEntries(columns.map((name, i) => [name, row[i]])) })));
  if (!several) return samples;
  const tasks = unique(samples.map((s) => s.task));
  return samples.sort((a, b) =>
    tasks.indexOf(a.task) - tasks.indexOf(b.task) ||
    a.length - b.length || a.depth - b.depth || a.trial - b.trial || a.run - b.run);
}

function searched(sample) {
  const { answer, thinking, needle, question, error, id, before, after, expected } = sample;
  const all = [answer, thinking, needle, question, error, id, before, after, ...expected];
  sample.folded ??= all.join("\n").toLowerCase();
  return sample.folded;
}

// Whether a sample passes the filters, which are given as the form gives them: an empty one lets all pass.
function filterOf(asked) {
  const text = asked.text.toLowerCase();
  const tests = EXACT.filter((name) => asked[name]).map((name) => (s) => String(s[name]) === asked[name]);
  if (asked.score) tests.push(SCORES[asked.score].fits);
  if (text) tests.push((s) => searched(s).includes(text));
  return (sample) => tests.every((fits) => fits(sample));
}

function verdict({ score, status }) {
  const words = status === "ok" ? "no score" : status.replace("_", " ");
  if (score == null) return ["none", `${MARKS[status] || "×"} ${words}`];
  if (score === 1) return ["right", "✓ right"];
  return score === 0 ? ["wrong", "✗ wrong"] : ["between", `◐ ${fraction(score)}`];
}

function sampleItem(sample, place, open) {
  const [kind, words] = verdict(sample);
  const details = el("details", {}, el("summary", {},
    el("span", { class: `verdict ${kind}` }, words),
    el("span", { class: "place" }, place),
    el("span", { class: "preview" }, (sample.answer || sample.error).trim().slice(0, 200))));
  details.addEventListener("toggle", () => {
    if (details.open && details.children.length === 1) details.append(sampleBody(sample));
  });
  details.open = open;
  return el("li", {}, details);
}

function sampleBody(s) {
  const text = (words, more = "") => el("div", { class: `text${more}` }, words);
  const context = [s.before && "… ", s.before, el("mark", {}, s.needle), s.after, " …"];
  const actual = s.actual_depth == null ? "" : `, ${s.actual_depth.toFixed(2)} % actual`;
  const [tokens, read] = [s.tokens, s.prefill_tokens].map((count) => count.toLocaleString("en"));
  const thought = () => el("details", { class: "thinking" }, el("summary", {}, "what it thought"), text(s.thinking));
  const lines = [
    ["prompt", el("div", { class: "text" }, context)],
    ["question", text(s.question)],
    s.answer_prefix && ["answer begins", text(s.answer_prefix)],
    ["expected", s.expected.map((words) => text(words, " expected"))],
    ["answer", s.answer ? text(s.answer, " answer") : el("em", {}, "empty")],
    s.thinking && ["thinking", thought()],
    s.error && ["error", text(s.error)],
    ["status", s.status + (s.attempt > 1 ? `, attempt ${s.attempt}` : "")],
    ["score", s.score == null ? "none" : `${NUMBER.format(s.score)} (${s.score_name})`],
    s.nll != null && ["nll", `${NUMBER.format(s.nll)} nats per token`],
    ["depth", `${depthLabel(s.depth)} % asked${actual}`],
    ["tokens", `${tokens} in the prompt, ${read} read for this sample, ${NUMBER.format(s.seconds)} s`],
    s.needle_found != null && ["passages", passagesRead(s)],
    ["id", el("code", {}, s.id)],
  ];
  return el("dl", {}, lines.filter(Boolean).flatMap(([term, words]) => [el("dt", {}, term), el("dd", {}, words)]));
}

function passagesRead(s) {
  const found = s.needle_found ? "the needle is in them" : "the needle is not in them";
  const some = s.needles_found > 0 && s.needles_found < 1;
  const share = some ? `, ${Math.round(100 * s.needles_found)} % of the hidden sentences are` : "";
  const whole = s.context_tokens.toLocaleString("en");
  return `${s.passages_read} of ${s.passages} read (${whole} tokens with all of them); ${found}${share}`;
}

// What a page of many samples says of those that it does not hold.
function elsewhere({ runs }) {
  const left = runs.reduce((sum, { samples }) => sum + (samples.left_out || 0), 0);
  const order = "of each cell, answers that are not right come first";
  return left ? ` in this page; ${left} more are in samples.csv (${order})` : "";
}

// The section of samples. Returns what other parts of the page do with it: show a cell's samples, or a task's.
function drawSamples(view) {
  const { runs, several } = view;
  const samples = allSamples(view);
  const severalTasks = several || runs[0].maps.length > 1;
  const form = document.getElementById("filters");
  const list = document.getElementById("list");
  const more = document.getElementById("more");
  let chosen = [];
  let origin = null; // the cell whose samples are shown

  const placeOf = (s) => joined(several && runs[s.run].name, severalTasks && s.task,
    `${lengthLabel(s.length)} · ${depthLabel(s.depth)} % · trial ${s.trial}`);

  function drawMore(open) {
    const drawn = list.children.length;
    list.append(...chosen.slice(drawn, drawn + PAGE).map((s) => sampleItem(s, placeOf(s), open)));
    const left = chosen.length - list.children.length;
    more.hidden = !left;
    more.textContent = `Show ${Math.min(left, PAGE)} more of ${left}`;
  }

  function update(open = false) {
    chosen = samples.filter(filterOf(Object.fromEntries(new FormData(form))));
    const part = chosen.length === samples.length ? "" : `${chosen.length} of `;
    document.getElementById("count").textContent = `${part}${samples.length} samples${elsewhere(view)}`;
    list.replaceChildren();
    drawMore(open && chosen.length <= MOST_OPEN);
  }

  function show(values, node, open = false) {
    mark(node);
    for (const field of form.querySelectorAll("select, input")) field.value = String(values[field.name] ?? "");
    update(open);
  }

  function mark(node) {
    origin?.setAttribute("aria-selected", "false");
    origin = node;
    origin?.setAttribute("aria-selected", "true");
  }

  drawFilters(form, samples, view);
  const changed = () => {
    mark(null);
    update();
  };
  form.querySelectorAll("select").forEach((field) => field.addEventListener("change", changed));
  form.elements.text.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    show({}, null);
  });
  more.addEventListener("click", () => {
    const next = list.children.length;
    drawMore(false);
    list.children[next]?.querySelector("summary").focus();
  });
  document.addEventListener("keydown", ({ key, target }) => {
    if (key !== "Escape" || !origin || (target.type === "search" && target.value)) return;
    origin.focus();
    show({}, null);
  });
  update();
  return {
    showCell(place, node) {
      show(place, node, true);
      document.getElementById("samples-title").focus();
    },
    showTask: (task) => show({ task }, null),
  };
}

function drawFilters(form, samples, { runs, several }) {
  const values = (name) => unique(samples.map((s) => s[name]));
  const select = (name, label, options) => {
    const choices = options.map(([value, text]) => el("option", { value }, text));
    const field = el("select", { name, id: `filter-${name}` }, el("option", { value: "" }, "all"), choices);
    form.append(el("label", { for: `filter-${name}` }, label, field));
  };
  const tasks = values("task");
  const scores = Object.entries(SCORES).filter(([, { fits }]) => samples.some(fits));
  if (several) select("run", "Run", runs.map((run, r) => [r, run.name]));
  if (several || tasks.length > 1) select("task", "Task", tasks.map((task) => [task, task]));
  select("status", "Status", values("status").sort().map((status) => [status, status.replace("_", " ")]));
  select("score", "Score", scores.map(([key, { label }]) => [key, label]));
  select("length", "Length", values("length").sort(ascending).map((n) => [n, lengthLabel(n)]));
  select("depth", "Depth", values("depth").sort(ascending).map((d) => [d, `${depthLabel(d)} %`]));
  const search = el("input", {
    type: "search",
    name: "text",
    id: "filter-text",
    autocomplete: "off",
    placeholder: "in answer, needle, question, error, id",
  });
  form.append(
    el("label", { for: "filter-text", class: "text" }, "Text", search),
    el("button", { type: "reset" }, "Show all"));
}
