/* Draws the curves of the page's data: one small chart per metric, a thin line per run, a thick one per algorithm. */

const data = JSON.parse(document.getElementById("data").textContent);
const BOX = { width: 400, height: 220, left: 46, right: 10, top: 10, bottom: 24 };
const LIGHT = ["#0072b2", "#d55e00", "#009e73", "#b35c92", "#1f8fc9", "#a67400", "#1f2328", "#777777"];
const DARK = ["#4aa8e0", "#ff8c42", "#2fc79a", "#e39ac4", "#8fd0f5", "#f0b93a", "#e6edf3", "#a9a9a9"];
const DASHES = ["", "7 3", "2 3", "9 3 2 3", "12 3", "5 2", "3 2 1 2", "1 2"];
const night = matchMedia("(prefers-color-scheme: dark)");
const hidden = new Set();
const find = (id) => document.getElementById(id);

function made(name, attributes, parent) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (parent) parent.append(element);
  return element;
}

const colour = (group) => (night.matches ? DARK : LIGHT)[data.groups.indexOf(group) % LIGHT.length];
const dash = (group) => DASHES[data.groups.indexOf(group) % DASHES.length];

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e3) return `${+(value / 1e3).toPrecision(3)}k`;
  return size !== 0 && size < 1e-3 ? value.toExponential(1) : String(+value.toPrecision(3));
}

/** Round numbers from low to high. */
function ticks(low, high) {
  const rough = (high - low) / 4 || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

function smoothed(points, window) {
  return points.map(([x], i) => {
    const part = points.slice(Math.max(0, i + 1 - window), i + 1);
    return [x, part.reduce((sum, [, y]) => sum + y, 0) / part.length];
  });
}

function at(points, x) {
  if (x < points[0][0] || x > points[points.length - 1][0]) return null;
  const next = points.findIndex(([t]) => t >= x);
  if (next === 0 || points[next][0] === x) return points[next][1];
  const [[t0, y0], [t1, y1]] = [points[next - 1], points[next]];
  return y0 + ((y1 - y0) * (x - t0)) / (t1 - t0);
}

/** The mean of several curves where all of them have points. */
function mean(curves) {
  const from = Math.max(...curves.map((points) => points[0][0]));
  const to = Math.min(...curves.map((points) => points[points.length - 1][0]));
  const places = [...new Set(curves[0].map(([x]) => x).concat([from, to]))].filter((x) => x >= from && x <= to);
  places.sort((a, b) => a - b);
  return places.map((x) => [x, curves.reduce((sum, points) => sum + at(points, x), 0) / curves.length]);
}

function chosen(metric) {
  const task = find("task").value, window = Number(find("smooth").value);
  return data.runs
    .filter((run) => run.curves[metric] && (!task || run.task === task) && !hidden.has(run.group))
    .map((run) => ({ ...run, points: smoothed(run.curves[metric], window) }));
}

function chart(metric) {
  const runs = chosen(metric);
  if (!runs.length) return null;
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  caption.textContent = metric;
  const groups = data.groups.filter((group) => runs.some((run) => run.group === group));
  const means = groups.map((group) => ({ group, points: mean(runs.filter((run) => run.group === group).map((run) => run.points)) }));
  const xs = runs.flatMap((run) => run.points.map(([x]) => x)), ys = runs.flatMap((run) => run.points.map(([, y]) => y));
  const extent = { left: Math.min(...xs), right: Math.max(...xs), low: Math.min(...ys), high: Math.max(...ys) };
  if (extent.low === extent.high) { extent.low -= 0.5; extent.high += 0.5; }
  if (extent.left === extent.right) extent.right += 1;
  const { width, height, left, right, top, bottom } = BOX;
  const scale = {
    x: (x) => left + ((x - extent.left) / (extent.right - extent.left)) * (width - left - right),
    y: (y) => height - bottom - ((y - extent.low) / (extent.high - extent.low)) * (height - top - bottom),
    back: (px) => extent.left + ((px - left) / (width - left - right)) * (extent.right - extent.left),
  };
  const svg = made("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${metric} over environment steps` });
  grid(svg, scale, extent);
  for (const run of runs) line(svg, run.points, scale, "run", run.group);
  for (const one of means) if (one.points.length) line(svg, one.points, scale, "mean", one.group);
  figure.append(caption, svg);
  readable(figure, svg, means, scale);
  return figure;
}

function grid(svg, scale, extent) {
  for (const y of ticks(extent.low, extent.high)) {
    made("line", { x1: BOX.left, x2: BOX.width - BOX.right, y1: scale.y(y), y2: scale.y(y), class: "rule" }, svg);
    made("text", { x: BOX.left - 5, y: scale.y(y) + 3.5, "text-anchor": "end" }, svg).textContent = short(y);
  }
  for (const x of ticks(extent.left, extent.right)) {
    made("text", { x: scale.x(x), y: BOX.height - 8, "text-anchor": "middle" }, svg).textContent = short(x);
  }
}

function line(svg, points, scale, kind, group) {
  const path = points.map(([x, y], i) => `${i ? "L" : "M"}${scale.x(x).toFixed(1)} ${scale.y(y).toFixed(1)}`).join("");
  made("path", { d: path, class: kind, stroke: colour(group), "stroke-dasharray": kind === "mean" ? dash(group) : "" }, svg);
}

/** Where somebody points, the means are told. */
function readable(figure, svg, means, scale) {
  const cursor = made("line", { y1: BOX.top, y2: BOX.height - BOX.bottom, class: "cursor", visibility: "hidden" }, svg);
  const readout = document.createElement("div");
  readout.className = "readout";
  readout.hidden = true;
  figure.append(readout);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), px = ((event.clientX - box.left) / box.width) * BOX.width, x = scale.back(px);
    const told = means.map(({ group, points }) => [group, points.length ? at(points, x) : null]).filter(([, y]) => y !== null);
    readout.hidden = !told.length;
    cursor.setAttribute("visibility", told.length ? "visible" : "hidden");
    cursor.setAttribute("x1", px);
    cursor.setAttribute("x2", px);
    readout.replaceChildren(...[`step ${short(x)}`, ...told.map(([group, y]) => `${group}: ${short(y)}`)].map((text) => {
      const row = document.createElement("div");
      row.textContent = text;
      return row;
    }));
    readout.style.left = px < BOX.width / 2 ? `${event.clientX - figure.getBoundingClientRect().left + 14}px` : "";
    readout.style.right = px < BOX.width / 2 ? "" : `${figure.getBoundingClientRect().right - event.clientX + 14}px`;
  });
  svg.addEventListener("pointerleave", () => { readout.hidden = true; cursor.setAttribute("visibility", "hidden"); });
}

function draw() {
  const wanted = find("filter").value.trim().toLowerCase();
  const metrics = data.metrics.filter((metric) => metric.toLowerCase().includes(wanted));
  find("charts").replaceChildren(...metrics.map(chart).filter(Boolean));
}

function legend() {
  find("legend").replaceChildren(...data.groups.map((group) => {
    const button = document.createElement("button"), sample = made("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
    made("path", { d: "M0 5H26", class: "mean", stroke: colour(group), "stroke-dasharray": dash(group) }, sample);
    button.type = "button";
    button.setAttribute("aria-pressed", String(!hidden.has(group)));
    button.append(sample, group);
    button.addEventListener("click", () => {
      if (!hidden.delete(group)) hidden.add(group);
      legend();
      draw();
    });
    return button;
  }));
}

function start() {
  for (const task of data.tasks) find("task").add(new Option(task, task));
  if (data.tasks.length > 1) find("task").add(new Option("all together", ""));
  for (const id of ["task", "smooth"]) find(id).addEventListener("change", draw);
  find("filter").addEventListener("input", draw);
  night.addEventListener("change", () => { legend(); draw(); });
  legend();
  draw();
  document.documentElement.dataset.ready = "yes";
}

start();
