// Elements, labels and colours. Text of models is hostile: it reaches the document through `el` alone, as text nodes
// and attribute values, never as markup.

const NUMBER = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

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

// Fill a table; rows are lists of cells.
function fill(table, head, rows, foot = []) {
  const line = (cells) => el("tr", {}, cells);
  table.append(el("thead", {}, line(head.map((name) => el("th", { scope: "col" }, name)))));
  table.append(el("tbody", {}, rows.map(line)));
  if (foot.length) table.append(el("tfoot", {}, foot.map(line)));
  return table;
}

const rowHead = (...children) => el("th", { scope: "row" }, ...children);
const value = (...children) => el("td", {}, ...children);

// Labels

const unique = (values) => [...new Set(values)];
const ascending = (a, b) => a - b;
const joined = (...parts) => parts.filter(Boolean).join(" · ");
const short = (number) => number.toFixed(1).replace(/\.0$/, "");

function lengthLabel(tokens) {
  for (const [unit, size] of [["m", 1048576], ["k", 1024]]) {
    const scaled = tokens / size;
    if (scaled >= 1) return (scaled >= 9.95 ? scaled.toFixed(0) : short(scaled)) + unit;
  }
  return String(tokens);
}

const depthLabel = short;
const fraction = (value) => (value === 1 ? "1" : value.toFixed(2).replace(/^0/, ""));
const interval = (low, high) => `[${low.toFixed(2)}, ${high.toFixed(2)}]`.replace(/-/g, "−");

function signed(value) {
  if (Math.abs(value) < 0.005) return "0";
  return (value < 0 ? "−" : "+") + fraction(Math.abs(value));
}

function bytesLabel(bytes) {
  const power = bytes ? Math.min(4, Math.floor(Math.log2(bytes) / 10)) : 0;
  return `${NUMBER.format(bytes / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

// Colours: every tenth of viridis, and ColorBrewer's PuOr. Both read the same without colour vision.

const VIRIDIS = scale("440154 482475 414487 355f8d 2a788e 21918c 22a884 44bf70 7ad151 bddf26 fde725");
const DIVERGING = scale("7f3b08 b35806 e08214 fdb863 fee0b6 f7f7f7 d8daeb b2abd2 8073ac 542788 2d004b");

function scale(colors) {
  return colors.split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
}

const css = ([red, green, blue]) => `rgb(${red},${green},${blue})`;

// The colour at a position from 0 to 1 of a scale, and the ink that stands out on it: black if black has more contrast
// than white (WCAG 2.2, relative luminance). One of the two always reaches 4.5.
function shade(colors, position) {
  const at = Math.min(Math.max(position, 0), 1) * (colors.length - 1);
  const below = Math.min(Math.floor(at), colors.length - 2);
  const mixed = colors[below].map((low, i) => Math.round(low + (at - below) * (colors[below + 1][i] - low)));
  const [red, green, blue] = mixed
    .map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  const light = red * 0.2126 + green * 0.7152 + blue * 0.0722 > 0.179;
  return { ground: css(mixed), ink: light ? "#000" : "#fff" };
}

function paint(node, { ground, ink }) {
  if (!ground) return;
  node.style.backgroundColor = ground;
  node.style.color = ink;
}
