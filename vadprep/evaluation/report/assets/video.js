// A video: player and curve in step, ground truth, and alarms at any threshold.
"use strict";

const LABELS = { 1: "abnormal", 0: "normal" };
const words = [
  ...new Set([data.category, LABELS[data.label] ?? "label unknown"]), `${data.num_frames} frames`,
  data.fps ? `${+data.fps.toFixed(3)} frames per second` : "frame rate unknown: times are those at 25 frames per second",
].filter(Boolean);
document.title = data.id;
page.append(
  make("nav", {}, make("a", { href: "../index.html" }, "All videos"),
    data.links.before ? make("a", { href: data.links.before, rel: "prev" }, "Previous") : null,
    data.links.after ? make("a", { href: data.links.after, rel: "next" }, "Next") : null),
  make("h1", { title: data.id }, cut(data.id, 90)),
  make("p", { class: "soft" }, words.join(", ")),
  ...banners(data.runs),
);

const player = data.movie ? make("video", { src: data.movie, controls: "", muted: "", playsinline: "", preload: "auto", poster: data.picture || null }) : null;
if (player) player.muted = true;
const curve = make("div", { class: "curve", id: "curve" });
const place = make("p", { class: "soft", id: "place", "aria-live": "off" });
page.append(make("div", { class: "watch" },
  make("section", {},
    player ?? make("p", { class: "panel", id: "no-movie" }, data.reason || "There is no preview of this video."),
    place,
    player ? make("p", { class: "soft" }, make("kbd", {}, "←"), " ", make("kbd", {}, "→"), " one frame back and forward. ",
      make("kbd", {}, "space"), " play and pause. A click on the curve goes to that time.") : null),
  make("section", {}, curve)));

if (data.intervals === null)
  page.append(make("p", { class: "note" }, "The ground truth of this video is unknown."));

// The curve.
let now = 0;
const scored = data.runs.filter((run) => run.values.length);
const traces = () => data.runs.map((run, nth) => {
  const kept = run.drawn ?? run.values.map((_, step) => step);
  const x = kept.map((step) => run.edges[step]), y = kept.map((step) => run.values[step]);
  if (kept.length) { x.push(run.edges[run.edges.length - 1]); y.push(y[y.length - 1]); }
  return { x, y, name: plain(run.name), mode: "lines", line: { ...lineOf(nth), shape: "hv" }, hovertemplate: "%{y:.3f}<extra>%{fullData.name}</extra>" };
}).concat(truth());
const truth = () => data.intervals?.length ? [{ x: [null], y: [null], mode: "markers", name: "ground truth",
  marker: { symbol: "square", size: 12, color: css("--shade"), line: { color: css("--anomaly"), width: 1 } } }] : [];
const shades = () => (data.intervals ?? []).map(([x0, x1]) => ({
  type: "rect", yref: "paper", x0, x1, y0: 0, y1: 1, layer: "below", fillcolor: css("--shade"), line: { color: css("--anomaly"), width: 1 },
}));
const level = () => ({ type: "line", xref: "paper", x0: 0, x1: 1, y0: threshold, y1: threshold, line: { color: css("--soft"), width: 1, dash: "dash" } });
let threshold = data.threshold;
const options = () => ({
  hovermode: "x", shapes: [...shades(), level()],
  xaxis: { title: data.fps ? "seconds" : "seconds at 25 frames per second", range: [0, data.end || 1] },
  yaxis: { title: "anomaly score", range: [-0.02, 1.05] },
});

/** Plots over the time of the video: a click goes to that time, and a cursor shows it. */
const timelines = [];
function timeline(element, ofTraces, ofLayout) {
  const cursor = make("div", { class: "cursor" });
  const draw = () => Plotly.react(element, ofTraces(), layoutOf(ofLayout()), CONFIG);
  draw();
  redraws.push(draw);
  element.append(cursor);
  timelines.push({ element, cursor });
  element.addEventListener("click", (event) => {
    const axis = element._fullLayout.xaxis;
    const x = event.clientX - element.getBoundingClientRect().left - axis._offset;
    if (x >= 0 && x <= axis._length && !event.target.closest(".legend")) seek(axis.p2l(x));
  });
  element.on?.("plotly_relayout", moveCursor);
}
timeline(curve, traces, options);

// Classes, from heads that tell them apart: one plot a run.
const SHOWN_CLASSES = 3; // the others wait in the legend
for (const run of data.runs.filter((each) => each.classes?.length)) {
  const many = data.runs.length > 1;
  const element = make("div", { class: "curve classes", id: many ? `classes-${data.runs.indexOf(run)}` : "classes" });
  const highest = run.classes.map((each) => Math.max(...each.y, 0));
  if (innerWidth < 600) element.style.height = `${320 + 17 * highest.length}px`; // the legend has a row a class
  const last = [...highest].sort((a, b) => b - a)[SHOWN_CLASSES - 1] ?? 0;
  page.append(make("h2", {}, many ? `Classes: ${run.name}` : "Classes"),
    make("p", { class: "soft" }, `One curve for each class. A click on a name in the legend shows or hides it${highest.length > SHOWN_CLASSES ? `; at first the ${SHOWN_CLASSES} that rise highest are shown` : ""}.`),
    make("section", {}, element));
  timeline(element, () => run.classes.map(({ name, x, y }, nth) => ({
    x, y, name: plain(name), mode: "lines", line: { ...lineOf(nth), shape: "hv" }, visible: highest[nth] >= last || "legendonly",
    hovertemplate: "%{y:.3f}<extra>%{fullData.name}</extra>",
  })).concat(truth()), () => ({ ...options(), shapes: shades(), uirevision: "classes", legend: { ...LEGEND_ABOVE, maxheight: 1 }, yaxis: { title: "probability of the class", range: [-0.02, 1.05] } }));
}
if (!scored.length) page.append(make("p", { class: "note" }, "This video has no clip, so it has no score."));

function scoreAt(run, seconds) {
  let [low, high] = [0, run.values.length - 1];
  if (high < 0 || seconds >= run.edges[run.edges.length - 1]) return null;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (run.edges[middle] <= seconds + 1e-6) low = middle; else high = middle - 1;
  }
  return run.values[low];
}

function moveCursor() {
  for (const { element, cursor } of timelines) {
    const { xaxis, yaxis } = element._fullLayout ?? {};
    if (!xaxis) continue;
    const x = xaxis._offset + xaxis.l2p(now);
    const inside = x >= xaxis._offset - 1 && x <= xaxis._offset + xaxis._length + 1;
    Object.assign(cursor.style, { display: inside ? "block" : "none", left: `${x - 1}px`, top: `${yaxis._offset}px`, height: `${yaxis._length}px` });
  }
  const scores = data.runs.map((run) => `${data.runs.length > 1 ? `${run.name} ` : ""}score ${number(scoreAt(run, now))}`);
  place.textContent = `${clock(now)} of ${clock(data.end)}, ${scores.join(", ")}`;
}

function seek(seconds) {
  now = Math.min(Math.max(0, seconds), data.end);
  if (player) player.currentTime = now;
  moveCursor();
}

addEventListener("resize", () => setTimeout(moveCursor, 200));

if (player) {
  const follow = () => { now = player.currentTime; moveCursor(); if (!player.paused) requestAnimationFrame(follow); };
  for (const name of ["play", "seeked", "timeupdate"]) player.addEventListener(name, follow);
  player.addEventListener("error", () => player.replaceWith(make("p", { class: "panel", id: "no-movie" }, "This browser cannot play the preview.")));
}

addEventListener("keydown", (event) => {
  if (!player || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("input, select, summary, video")) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1 };
  if (event.key in steps) { player.pause(); seek(now + steps[event.key] * data.frame); event.preventDefault(); }
  if (event.key === " " && !event.target.closest("button")) { player.paused ? player.play() : player.pause(); event.preventDefault(); }
});

// Alarms.
const list = make("ol", { class: "alarms", id: "alarms" });
const heading = make("strong", { id: "alarm-count" });
const slider = make("input", { type: "range", min: "0", max: "1", step: "0.01", value: String(threshold), id: "threshold", "aria-label": "Threshold" });
const exact = make("input", { type: "number", min: "0", max: "1", step: "any", value: String(threshold), id: "exact", "aria-label": "Threshold as a number", style: "width: 6.5em" });
let shownRun = 0;

/** Runs of steps that score the threshold or more, half-open, as VideoScores.alarms gives them. */
function alarmsOf(run, level) {
  const found = [];
  for (let step = 0; step < run.values.length; step++) {
    if (run.values[step] < level) continue;
    const last = found[found.length - 1];
    if (last && last.stopFrame === run.frames[step]) {
      Object.assign(last, { stop: run.edges[step + 1], stopFrame: run.frames[step + 1] });
    } else {
      found.push({ start: run.edges[step], stop: run.edges[step + 1], startFrame: run.frames[step], stopFrame: run.frames[step + 1], highest: -1, steps: [] });
    }
    const alarm = found[found.length - 1];
    alarm.steps.push(step);
    if (run.values[step] > alarm.highest) Object.assign(alarm, { highest: run.values[step], peak: run.edges[step] });
  }
  return found;
}

/** The class of the highest mean over the frames of an alarm, after a comma; nothing without classes. */
function classOf(run, alarm) {
  let [name, most] = ["", -Infinity];
  for (const each of run.classes) {
    const sum = alarm.steps.reduce((so, step) => so + each.means[step] * (run.frames[step + 1] - run.frames[step]), 0);
    if (sum > most) [name, most] = [`, ${each.name}`, sum];
  }
  return name;
}

function tile(seconds) {
  if (!data.board) return null;
  let nth = data.seconds.findIndex((each) => each > seconds + 1e-6);
  nth = nth === -1 ? data.seconds.length - 1 : Math.max(0, nth - 1);
  const [width, height] = data.tile;
  return make("div", { class: "tile", style:
    `width:${width}px;height:${height}px;background-image:url("${data.board}");background-position:-${(nth % 10) * width}px -${Math.floor(nth / 10) * height}px` });
}

const MOST_ALARMS = 200;
function showAlarms() {
  const run = data.runs[shownRun];
  const alarms = alarmsOf(run, threshold);
  heading.textContent = `${alarms.length} ${alarms.length === 1 ? "alarm" : "alarms"}`;
  list.replaceChildren(...alarms.slice(0, MOST_ALARMS).map((alarm) => make("li", {},
    make("button", { type: "button", onclick: () => seek(alarm.start) }, tile(alarm.peak),
      `${clock(alarm.start)} – ${clock(alarm.stop)}`, make("br"),
      make("span", { class: "soft" }, `peak ${number(alarm.highest)} at ${clock(alarm.peak)}${classOf(run, alarm)}`)))));
  Plotly.relayout(curve, { shapes: options().shapes }).then(moveCursor);
}

function setThreshold(value, from) {
  if (!(value >= 0 && value <= 1)) return;
  threshold = value;
  for (const input of [slider, exact]) if (input !== from) input.value = String(value);
  showAlarms();
}
slider.addEventListener("input", () => setThreshold(Number(slider.value), slider));
exact.addEventListener("change", () => setThreshold(Number(exact.value), exact));
page.append(make("h2", {}, "Alarms"),
  make("div", { class: "tools" }, heading, make("label", {}, "threshold ", slider), exact,
    data.runs.length > 1 ? make("select", { "aria-label": "Run of the alarms", onchange: (event) => { shownRun = Number(event.target.value); showAlarms(); } },
      data.runs.map((run, nth) => make("option", { value: String(nth) }, run.name))) : null),
  list);
showAlarms();
