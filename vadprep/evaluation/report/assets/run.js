// The overview of runs, and the table of all videos.
"use strict";

const LEGEND = {
  frame_auc: "ROC AUC over all frames",
  frame_ap: "average precision over all frames, step-wise",
  frame_ap_trapezoid: "the same by straight lines: the AP of most papers",
  far: "share of the frames of normal videos that score 0.5 or more",
  frame_auc_abnormal: "ROC AUC over the frames of abnormal videos",
  segment_auc: "ROC AUC over snippets",
  segment_ap: "average precision over snippets",
  video_auc: "ROC AUC over videos",
  video_ap: "average precision over videos",
  temporal_map: "AP of the events found of each class, mean over classes and the five below",
  "temporal_map@0.1": "an event is found where IoU is 0.1 or more",
  "temporal_map@0.2": "0.2 or more",
  "temporal_map@0.3": "0.3 or more",
  "temporal_map@0.4": "0.4 or more",
  "temporal_map@0.5": "0.5 or more",
};

const PUBLISHED = "in papers: the frame AUC, on XD-Violence the average precision; mostly of the best epoch on the test videos";

page.append(
  make("h1", {}, data.title),
  make("p", { class: "soft" }, `${data.videos.length} scored videos. Metrics are fractions of 1.`),
  ...banners(data.runs),
);

const MOST_COLUMNS = 6; // of runs and epochs; for more, each is a row

/** A metric with what it is below. */
function term(name, words) {
  return make("span", {}, make("strong", {}, name), make("br"), make("span", { class: "soft" }, words));
}

const entries = data.runs.flatMap((run) => run.metrics.map((entry) => ({ run, entry })));
if (entries.length) {
  const isWide = entries.length > MOST_COLUMNS;
  const has = (name) => ({ entry }) => (isWide ? (entry.values[name] ?? null) !== null : name in entry.values);
  const shown = Object.keys(LEGEND).filter((name) => entries.some(has(name)));
  const isPublished = data.runs.some((run) => run.published);
  const placed = (found, published) => (!isPublished ? found : isWide ? [published, ...found] : [...found, published]);
  const lines = entries.map(({ run, entry }) => [
    `${run.name}, ${entry.words}`,
    ...placed(
      shown.map((name) => {
        const [value, spread] = [entry.values[name], entry.spread[name]];
        const text = spread === null || spread === undefined ? fraction(value) : `${fraction(value)} ± ${fraction(spread)}`;
        return make("span", { title: (entry.undefined || {})[name] || null }, text);
      }),
      (entry.words.startsWith("best on test") && run.published) || "–",
    ),
  ]);
  const terms = placed(shown.map((name) => [name, LEGEND[name]]), ["published", PUBLISHED]);
  page.append(make("h2", {}, "Metrics"));
  if (isWide)
    page.append(
      table(["run, epoch", ...terms.map(([name]) => name)], lines, "metrics wide-metrics"),
      make("details", {}, make("summary", {}, "What the metrics are"), make("ul", {}, terms.map((each) => make("li", {}, term(...each))))),
    );
  else
    page.append(table(
      ["metric", ...lines.map(([name]) => name)],
      terms.map((each, place) => [term(...each), ...lines.map((cells) => cells[place + 1])]),
      "metrics",
    ));
  const bySeeds = new Map();
  for (const run of data.runs.filter((each) => each.seeds.length)) {
    const seeds = run.seeds.join(", ");
    bySeeds.set(seeds, [...(bySeeds.get(seeds) || []), run.name]);
  }
  for (const [seeds, names] of bySeeds)
    page.append(make("p", { class: "soft" },
      `${names.join(", ")}: mean ± standard deviation over the seeds ${seeds}. Curves show the mean of their scores.`));
} else {
  page.append(make("p", {}, "There is no metrics.json beside these scores, so no metrics are shown."));
}

const drawn = data.runs.map((run, place) => ({ ...run, place }));
const withCurves = drawn.filter((run) => run.curves.roc);
for (const run of drawn) {
  const text = run.curves.reason || run.curves.note;
  if (text) page.append(make("p", { class: "note" }, data.runs.length > 1 ? `${run.name}: ${text}` : text));
}
const grid = make("div", { class: "grid" });
page.append(grid);

function panel(title, id) {
  const element = make("div", { class: "plot", id });
  grid.append(make("section", { class: "panel" }, make("h3", {}, title), element));
  return element;
}

if (withCurves.length) {
  const point = (run, x, y, what) => ({
    x: [x], y: [y], mode: "markers", name: `${plain(run.name)} at threshold ${data.threshold}`, showlegend: false,
    marker: { color: colourOf(run.place), size: 11, symbol: "diamond", line: { color: css("--text"), width: 1 } },
    hovertemplate: `threshold ${data.threshold}<br>${what}<extra></extra>`,
  });
  plot(panel("ROC over frames", "roc"), () => withCurves.flatMap((run) => [
    { x: run.curves.roc[0], y: run.curves.roc[1], name: plain(run.name), line: lineOf(run.place) },
    point(run, run.curves.at.false, run.curves.at.recall, "false positives %{x:.3f}, recall %{y:.3f}"),
  ]).concat([{ x: [0, 1], y: [0, 1], mode: "lines", name: "chance", line: { color: css("--soft"), width: 1, dash: "dot" } }]),
  { xaxis: { title: "false positive rate", range: [0, 1] }, yaxis: { title: "recall", range: [0, 1.02] } });
  plot(panel("Precision and recall over frames", "pr"), () => withCurves.flatMap((run) => [
    { x: run.curves.pr[0], y: run.curves.pr[1], name: plain(run.name), line: lineOf(run.place) },
    ...(run.curves.at.precision === null ? [] :
      [point(run, run.curves.at.recall, run.curves.at.precision, "recall %{x:.3f}, precision %{y:.3f}")]),
  ]).concat([{ x: [0, 1], y: [withCurves[0].curves.base, withCurves[0].curves.base], mode: "lines", name: "chance", line: { color: css("--soft"), width: 1, dash: "dot" } }]),
  { xaxis: { title: "recall", range: [0, 1] }, yaxis: { title: "precision", range: [0, 1.02] } });
}

const barOf = (place, shape) => ({ color: colourOf(place), pattern: { shape } });
for (const run of drawn.filter((each) => each.curves.bins)) {
  const middle = run.curves.bins.slice(1).map((edge, place) => (edge + run.curves.bins[place]) / 2);
  const share = (counts) => { const sum = counts.reduce((a, b) => a + b, 0) || 1; return counts.map((each) => each / sum); };
  const title = data.runs.length > 1 ? `Scores of frames: ${run.name}` : "Scores of frames";
  plot(panel(title, `histogram-${run.place}`), () => [
    { x: middle, y: share(run.curves.normal), type: "bar", name: "normal frames", marker: barOf(0, ""), opacity: 0.8 },
    { x: middle, y: share(run.curves.abnormal), type: "bar", name: "abnormal frames", marker: barOf(1, "/"), opacity: 0.8 },
  ], { barmode: "overlay", bargap: 0, xaxis: { title: "score", range: [0, 1] }, yaxis: { title: "share of the frames" } });
}

for (const run of drawn.filter((each) => Object.keys(each.losses).length)) {
  const terms = Object.keys(run.losses);
  const traces = () => terms.flatMap((term, place) => Object.entries(run.losses[term]).map(([seed, points], nth) => ({
    x: points.map((each) => each[0]), y: points.map((each) => each[1]), name: plain(term), legendgroup: term,
    showlegend: nth === 0, mode: "lines", line: lineOf(place, 1.5), hovertemplate: `${plain(term)}${seed && `, seed ${seed}`}: %{y:.4g}<extra></extra>`,
  })));
  plot(panel(data.runs.length > 1 ? `Training losses: ${run.name}` : "Training losses", `loss-${run.place}`), traces,
    { xaxis: { title: "epoch" }, yaxis: { title: "loss" } });
}

const PLAIN = ["frame_auc", "frame_ap", "frame_auc_abnormal"];
const IOUS = ["0.1", "0.2", "0.3", "0.4", "0.5"];
for (const { run, entry } of entries.filter(({ entry }) => entry.words === "last step" && Object.keys(entry.per_category).length)) {
  page.append(
    make("h2", {}, data.runs.length > 1 ? `Categories: ${run.name}` : "Categories"),
    make("p", { class: "soft" }, "frame_auc and frame_ap: the videos of the category with all normal videos. frame_auc_abnormal: these videos alone."),
    table(["category", "videos", ...PLAIN], Object.entries(entry.per_category).map(([name, values]) => [
      name, values.num_videos === undefined ? "–" : String(values.num_videos), ...PLAIN.map((metric) => fraction(values[metric]))])));
  const found = Object.entries(entry.per_category).filter(([, values]) => values.temporal_ap !== undefined);
  if (found.length)
    page.append(make("h3", {}, data.runs.length > 1 ? `Events by class: ${run.name}` : "Events by class"),
      make("p", { class: "soft" }, "Average precision of the events that are found of each class, by the least overlap (IoU) with a true event, and the mean. A class that the head does not know has 0."),
      table(["class", "true events", "mean", ...IOUS.map((iou) => `IoU ${iou}`)], found.map(([name, values]) => [
        name, String(values.num_events), fraction(values.temporal_ap), ...IOUS.map((iou) => fraction(values[`temporal_ap@${iou}`]))]), "by-class"));
}

for (const run of drawn.filter((each) => Object.keys(each.spec).length)) {
  const streams = Object.keys(run.spec);
  const fields = [...new Set(streams.flatMap((stream) => Object.keys(run.spec[stream])))];
  page.append(make("details", {}, make("summary", {}, `Settings of ${run.name}: head ${run.head}`),
    make("div", { class: "grid" },
      table(["feature spec", ...streams], fields.map((name) => [name, ...streams.map((stream) => String(run.spec[stream][name] ?? ""))])),
      table([`head ${run.head}`, ""], Object.entries(run.config).map(([name, value]) => [name, String(value)])))));
}

// The table of all videos.
const SORTS = [
  ["video", "", (row) => row.id],
  ["category", "", (row) => row.cells?.category ?? ""],
  ["label", "", (row) => row.cells?.label ?? -1],
  ["score", "number", (row) => row.cells?.score],
  ["frame AUC", "number", (row) => row.cells?.auc],
  ["false alarms", "number", (row) => row.cells?.false_alarms],
  ["worst miss", "number", (row) => row.cells?.missed],
];
const state = { run: 0, text: "", label: "", sort: 0, down: false };
const body = make("tbody");
const count = make("span", { class: "soft", id: "count" });
const headers = SORTS.map(([name, kind], place) =>
  make("th", { class: `${kind} ${[1, 2].includes(place) ? "wide" : ""}`.trim() || null, scope: "col" },
    make("button", { type: "button", onclick: () => sortBy(place) }, name)));

function sortBy(place) {
  state.down = state.sort === place ? !state.down : false;
  state.sort = place;
  show();
}

function spark(values, threshold) {
  if (!values.length) return make("span", { class: "soft" }, "no score");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "spark");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `highest score ${Math.max(...values).toFixed(2)}`);
  const step = 100 / values.length;
  const steps = values.map((value, place) => `L${(place * step).toFixed(1)},${(98 - 96 * value).toFixed(1)}H${((place + 1) * step).toFixed(1)}`);
  svg.innerHTML = `<line x1="0" x2="100" y1="${98 - 96 * threshold}" y2="${98 - 96 * threshold}"></line><path d="M${steps.join("").slice(1)}"></path>`;
  return svg;
}

const LABELS = { 1: "abnormal", 0: "normal" };

function rowOf(row) {
  const cells = row.cells;
  const picture = row.picture
    ? make("img", { class: "picture", src: row.picture, alt: "", loading: "lazy" }) : make("span", { class: "none" }, "no picture");
  return make("tr", {},
    make("td", {}, make("a", { href: row.page, title: row.id }, picture)),
    make("td", {}, make("a", { href: row.page, title: row.id }, cut(row.id))),
    make("td", { class: "wide" }, cells?.category ?? ""),
    make("td", { class: "wide" }, cells ? LABELS[cells.label] ?? "unknown" : "no score"),
    make("td", { class: "number" }, number(cells?.score)),
    make("td", { class: "number" }, fraction(cells?.auc)),
    make("td", { class: "number" }, fraction(cells?.false_alarms, 3)),
    make("td", { class: "number", title: cells?.missed_at ? `at ${clock(cells.missed_at)}` : null }, number(cells?.missed)),
    make("td", {}, cells ? spark(cells.spark, data.threshold) : "no score"));
}

function show() {
  const [name, , key] = SORTS[state.sort];
  const wanted = state.text.toLowerCase();
  const rows = data.videos
    .map((row) => ({ ...row, cells: row.runs[state.run] }))
    .filter((row) => `${row.id} ${row.cells?.category ?? ""}`.toLowerCase().includes(wanted))
    .filter((row) => state.label === "" || String(row.cells?.label ?? "") === state.label);
  const blank = (value) => value === null || value === undefined;
  rows.sort((one, other) => {
    const [a, b] = [key(one), key(other)];
    if (blank(a) || blank(b)) return blank(a) - blank(b); // rows without a value come last
    const order = typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
    return state.down ? -order : order;
  });
  headers.forEach((header, place) => {
    if (place === state.sort) header.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else header.removeAttribute("aria-sort");
  });
  count.textContent = `${rows.length} of ${data.videos.length} videos, sorted by ${name}`;
  body.replaceChildren(...rows.map(rowOf));
}

const tools = make("div", { class: "tools" },
  make("input", { type: "search", placeholder: "Find an id or a category", "aria-label": "Find an id or a category", id: "find",
    oninput: (event) => { state.text = event.target.value; show(); } }),
  make("select", { "aria-label": "Label", id: "label", onchange: (event) => { state.label = event.target.value; show(); } },
    make("option", { value: "" }, "all labels"), make("option", { value: "1" }, "abnormal"), make("option", { value: "0" }, "normal")),
  data.runs.length > 1 ? make("select", { "aria-label": "Run", id: "run", onchange: (event) => { state.run = Number(event.target.value); show(); } },
    data.runs.map((run, place) => make("option", { value: String(place) }, run.name))) : null,
  count);
page.append(make("h2", {}, "Videos"),
  make("p", { class: "soft" }, `Score: of the video as a whole. False alarms: share of the frames outside of events that score ${data.threshold} or more. Worst miss: the highest score inside the event that scores lowest.`),
  tools,
  make("div", { class: "scroll" }, make("table", { class: "videos" },
    make("thead", {}, make("tr", {}, make("th", {}, ""), headers, make("th", {}, "scores over time"))), body)));
show();
