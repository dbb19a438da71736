// What all pages share: elements, texts, colours of plots. Texts are always set as text.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const page = document.getElementById("page");

/** An element with attributes and children; a text becomes a text node, null is left out. */
function make(tag, attributes = {}, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) found.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) found.setAttribute(name, value);
  }
  found.append(...children.flat().filter((each) => each !== null && each !== undefined));
  return found;
}

/** A long id cut in the middle, since both ends tell ids apart. */
function cut(text, most = 48) {
  const half = Math.floor((most - 1) / 2);
  return text.length <= most ? text : `${text.slice(0, half)}…${text.slice(-half)}`;
}

function fraction(value, digits = 4) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

function number(value, digits = 3) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

/** Seconds as 0:07.5 or 1:02:07.5. */
function clock(seconds) {
  const tenths = Math.round(10 * seconds);
  const [hours, minutes] = [Math.floor(tenths / 36000), Math.floor((tenths % 36000) / 600)];
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** Rows of cells; a cell is a text or an element. Columns after the first hold numbers. */
function table(head, rows, name = "") {
  const cell = (tag, value, place) => make(tag, { class: place ? "number" : null }, value);
  return make("div", { class: "scroll" },
    make("table", { class: name },
      make("thead", {}, make("tr", {}, head.map((each, place) => cell("th", each, place)))),
      make("tbody", {}, rows.map((row) => make("tr", {}, row.map((each, i) => cell("td", each, i)))))));
}

/** Plotly reads markup in names and texts. */
const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;");

/** The colour of the curve at a place, in the mode of the page. */
const colourOf = (place) => css(`--curve-${place % 6}`);
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

/** 36 lines that differ in colour or dash; the first six in both. */
function lineOf(place, width = 2) {
  return { color: colourOf(place), dash: DASHES[(place + Math.floor(place / 6)) % 6], width };
}

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const LEGEND_ABOVE = { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 };

/** The layout of a plot in the colours of the page. */
function layoutOf(options) {
  const axis = (given) => ({
    gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true, ...given,
    title: { text: given.title, standoff: 8 },
  });
  return {
    margin: { l: 48, r: 12, t: 8, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: css("--text"), size: 12, family: "inherit" }, showlegend: true,
    legend: LEGEND_ABOVE,
    ...options, xaxis: axis(options.xaxis), yaxis: axis(options.yaxis),
  };
}

const CONFIG = { responsive: true, displayModeBar: false };
const redraws = [];

/** Draw once the page has its form, and again when it changes between light and dark.
 * ``traces`` is a function, for their colours are those of the mode. */
function plot(element, traces, options) {
  const draw = () => Plotly.react(element, traces(), layoutOf(options), CONFIG);
  redraws.push(draw);
  setTimeout(draw);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((draw) => draw()));

function banners(runs) {
  return runs.filter((run) => run.caution).map((run) =>
    make("div", { class: "banner", role: "alert" }, runs.length > 1 ? `${run.name}: ${run.caution}` : run.caution));
}
