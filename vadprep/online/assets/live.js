// The live page: asks for what is new, draws the curve, lists the alarms. Texts are set as text.
"use strict";

const MINUTES = 5;
const ASK_MILLISECONDS = 500;
const SVG = "http://www.w3.org/2000/svg";
const place = document.getElementById("sources");
const connection = document.getElementById("connection");
const caution = document.getElementById("caution");
const panels = [];
let count = 0;

/** An element with a class and children; a text becomes a text node. */
function make(tag, name, ...children) {
  const found = document.createElement(tag);
  if (name) found.className = name;
  found.append(...children);
  return found;
}

function shape(tag, attributes) {
  const found = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  return found;
}

/** The panel of one source; its picture is asked for again when the last one is there. */
function panelOf(source, number) {
  const badge = make("span", "badge");
  const state = make("p", "soft");
  const image = make("img");
  image.alt = "Newest picture of the source";
  const svg = shape("svg", { viewBox: "0 0 1000 200", preserveAspectRatio: "none", role: "img" });
  svg.setAttribute("aria-label", `Scores of the last ${MINUTES} minutes, from 0 to 1`);
  const words = [`${MINUTES} minutes ago`, "score, from 0 to 1", "now"];
  const axis = make("div", "axis", ...words.map((text) => make("span", "", text)));
  const rows = make("tbody");
  const head = make("thead", "", make("tr", "", ...["Alarm from", "to", "highest score"].map((t) => make("th", "", t))));
  const right = make("div", "", svg, axis, make("table", "", head, rows));
  const box = make(
    "section", "source", make("h2", "", source.name, badge), state,
    make("div", "watch", make("div", "", image), right),
  );
  place.append(box);
  const show = () => { image.src = `picture/${number}?at=${Date.now()}`; };
  image.addEventListener("load", () => setTimeout(show, 250));
  image.addEventListener("error", () => setTimeout(show, 2000));
  return { box, badge, state, svg, rows, show, scores: [], hasPicture: false };
}

/** Points of the curve, broken where nothing came for more than ten seconds. */
function draw(panel, source, on, off, now) {
  const start = now - 60 * MINUTES;
  const x = (time) => (1000 * (time - start)) / (60 * MINUTES);
  const y = (score) => 195 - 190 * score;
  const parts = [];
  for (const alarm of source.alarms) {
    const stop = alarm.stop === null ? now : alarm.stop;
    if (stop > start) {
      const left = x(Math.max(start, alarm.start));
      const width = Math.max(2, x(stop) - left);
      parts.push(shape("rect", { class: "span", x: left, y: 0, width, height: 200 }));
    }
  }
  for (const each of new Set([on, off])) {
    parts.push(shape("line", { class: "threshold", x1: 0, x2: 1000, y1: y(each), y2: y(each) }));
  }
  let path = "";
  let last = -Infinity;
  for (const [time, score] of panel.scores) {
    path += `${time - last > 10 ? "M" : "L"}${x(time).toFixed(1)} ${y(score).toFixed(1)}`;
    last = time;
  }
  parts.push(shape("path", { class: "curve", d: path }));
  panel.svg.replaceChildren(...parts);
}

function update(panel, source, state) {
  const now = Date.now() / 1000;
  panel.scores.push(...source.scores);
  while (panel.scores.length && panel.scores[0][0] < now - 60 * MINUTES) panel.scores.shift();
  const newest = panel.scores[panel.scores.length - 1];
  const isOn = source.alarms.some((each) => each.stop === null);
  panel.box.classList.toggle("alarm", isOn);
  panel.badge.textContent = isOn ? "ALARM" : "";
  const words = [source.state + (source.reason ? `: ${source.reason}` : "")];
  if (newest) words.push(`score ${newest[1].toFixed(3)}`);
  if (source.lost_frames) words.push(`${source.lost_frames} frames lost`);
  if (source.dropped_clips) words.push(`${source.dropped_clips} clips dropped`);
  panel.state.textContent = words.join(" · ");
  const clock = (time) => (time === null ? "now" : new Date(1000 * time).toLocaleTimeString());
  panel.rows.replaceChildren(
    ...source.alarms.slice().reverse().slice(0, 10).map((each) =>
      make("tr", "", ...[clock(each.start), clock(each.stop), each.score.toFixed(3)].map((t) => make("td", "", t)))),
  );
  draw(panel, source, state.on, state.off, now);
  if (!panel.hasPicture && newest) {
    panel.hasPicture = true;
    panel.show();
  }
}

async function ask() {
  try {
    const answer = await fetch(`state.json?after=${count}`);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const state = await answer.json();
    count = state.count;
    caution.hidden = !state.caution;
    caution.textContent = state.caution;
    state.sources.forEach((source, number) => {
      panels[number] ??= panelOf(source, number);
      update(panels[number], source, state);
    });
    connection.textContent = `${state.sources.length} source${state.sources.length === 1 ? "" : "s"}`;
    connection.classList.remove("lost");
  } catch (error) {
    connection.textContent = "The session does not answer: it has ended, or the network is down.";
    connection.classList.add("lost");
  }
  setTimeout(ask, ASK_MILLISECONDS);
}

ask();
