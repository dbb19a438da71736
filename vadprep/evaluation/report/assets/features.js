// A feature folder: what is there, what failed, and which features look unusual.
"use strict";

page.append(make("h1", {}, `Features: ${data.title}`),
  ...data.streams.filter((stream) => stream.random).map((stream) =>
    make("div", { class: "banner", role: "alert" }, `${stream.name}: weights ${stream.weights}, NEVER TRAINED`)));

const names = data.streams.map((stream) => stream.name);
page.append(make("h2", {}, "Counts"), table(["", ...names],
  Object.keys(data.streams[0].counts).map((name) => [name, ...data.streams.map((stream) => stream.counts[name].toLocaleString("en"))])));

for (const stream of data.streams.filter((each) => each.failures.length))
  page.append(make("h2", {}, `Failed, by reason: ${stream.name}`), table(["reason", "videos"],
    stream.failures.map(([reason, count]) => [reason, String(count)])));

const bad = data.videos.filter((row) => row.not_finite || row.constant || row.duplicates);
page.append(make("h2", {}, "Rows to look at"),
  make("p", { class: "soft" }, "Clips whose features hold NaN or infinity, are constant, or are equal to those of the clip before."));
if (!bad.length) page.append(make("p", { id: "no-bad" }, "There are none."));
else page.append(table(["video", "NaN or infinity", "constant", "equal to the clip before", "clips"],
  bad.slice(0, 100).map((row) => [make("span", { title: row.id }, cut(row.id)), ...[row.not_finite, row.constant, row.duplicates, row.clips].map(String)])),
bad.length > 100 ? make("p", { class: "soft" }, `and ${bad.length - 100} more videos`) : "");

const grid = make("div", { class: "grid" });
page.append(make("h2", {}, "Pictures of the features"), grid);
function panel(title, id) {
  const element = make("div", { class: "plot", id });
  grid.append(make("section", { class: "panel" }, make("h3", {}, title), element));
  return element;
}

const LABELS = { 1: "abnormal", 0: "normal" };
const labelOf = (row) => LABELS[row.label] ?? "label unknown";
const SYMBOLS = ["circle", "x", "square", "diamond", "cross", "triangle-up"];

/** One trace of markers for each group of rows. */
function groups(rows, key, x, y, text) {
  const kinds = [...new Set(rows.map(key))].sort();
  return kinds.map((kind, nth) => {
    const own = rows.filter((row) => key(row) === kind);
    return { x: own.map(x), y: own.map(y), text: own.map(text), name: kind || "no category", mode: "markers", type: rows.length > 2000 ? "scattergl" : "scatter",
      hovertemplate: "%{text}<br>%{x}, %{y}<extra>%{fullData.name}</extra>",
      marker: { color: colourOf(nth), symbol: SYMBOLS[nth % 6], size: 6 } };
  });
}

const timed = data.videos.filter((row) => row.seconds !== null);
if (timed.length)
  plot(panel("Clips against length", "length"), () => groups(timed, labelOf, (row) => row.seconds, (row) => row.clips, (row) => plain(row.id)),
    { xaxis: { title: "seconds" }, yaxis: { title: "clips" } });

const points = data.points.x.map((x, nth) => ({ x, y: data.points.y[nth], row: data.videos[data.points.video[nth]] }));
if (points.length) {
  const both = { xaxis: { title: "first principal component" }, yaxis: { title: "second principal component" } };
  const xy = [(point) => point.x, (point) => point.y, (point) => plain(point.row.id)];
  plot(panel("Clips, coloured by label", "pca-label"), () => groups(points, (point) => labelOf(point.row), ...xy), both);
  if (new Set(data.videos.map((row) => row.category)).size > 1)
    plot(panel("Clips, coloured by category", "pca-category"), () => groups(points, (point) => plain(point.row.category), ...xy), both);
}

const crops = Math.max(0, ...data.videos.map((row) => row.norms.length));
if (crops)
  plot(panel("Length of the features, by crop", "norms"), () => Array.from({ length: crops }, (_, crop) => ({
    y: data.videos.filter((row) => row.norms.length).map((row) => row.norms[crop]), type: "box", name: crops > 1 ? `crop ${crop}` : "features",
    marker: { color: colourOf(crop) }, boxpoints: "outliers" })),
  { showlegend: false, xaxis: {}, yaxis: { title: "mean norm of a video" } });
const cosines = data.videos.map((row) => row.cosine).filter((each) => each !== null);
if (cosines.length)
  plot(panel("Cosine between the first crop and the others", "cosines"), () => [{ x: cosines, type: "histogram", marker: { color: colourOf(0) }, name: "videos" }],
    { showlegend: false, xaxis: { title: "mean cosine of a video" }, yaxis: { title: "videos" } });

for (const stream of data.streams) {
  const stages = Object.entries(stream.stages).sort((one, other) => other[1] - one[1]);
  if (stages.length)
    plot(panel(`Seconds of each stage: ${stream.name}`, `stages-${stream.name}`), () => [{ x: stages.map((each) => each[1]), y: stages.map((each) => each[0]), type: "bar", orientation: "h", marker: { color: colourOf(0) }, name: "seconds" }],
      { showlegend: false, xaxis: { title: "seconds, all videos" }, yaxis: { autorange: "reversed" } });
  if (stream.pace[0].length > 1)
    plot(panel(`Pace: ${stream.name}`, `pace-${stream.name}`), () => [{ x: stream.pace[0], y: stream.pace[1], mode: "lines", line: { ...lineOf(0), shape: "hv" }, name: "clips" }],
      { showlegend: false, xaxis: { title: "hours since the start" }, yaxis: { title: "clips done" } });
  if (!stages.length) page.append(make("p", { class: "note" }, `${stream.name}: this folder has no events, so the time of each stage is unknown.`));
}

if (data.unusual.length) {
  page.append(make("h2", {}, "Most unusual videos"),
    make("p", { class: "soft" }, "How far the mean feature of a video lies from that of all videos, in standard deviations of each dimension. An unusual video may be damaged, of another camera, or truly different."),
    table(["video", "picture", "distance", "clips", "category"], data.unusual.map((row) => [
      make("span", { title: row.id }, cut(row.id)),
      row.picture ? make("img", { class: "picture", src: row.picture, alt: "" }) : make("span", { class: "none" }, "no picture"),
      number(row.unusual, 2), String(row.clips), row.category])));
}

for (const stream of data.streams)
  page.append(make("details", {}, make("summary", {}, `Spec of ${stream.name}`), table(["field", "value"], Object.entries(stream.spec))));
