// Time: playing, stepping, choosing; the curve of rewards; keys; and where it all begins.

const INSET = 8; // half the scrubber's thumb: the curve's ends stand under its ends
const ICONS = { play: "M7 4.5v15L20 12z", pause: "M6.5 5H10v14H6.5zM14 5h3.5v14H14z" };
const RESULTS = { won: "Won", lost: "Lost", undecided: "Undecided: out of time", over: "The end" };

const part = (id) => document.getElementById(id);
const painter = new Painter(part("scene"));
const episodes = recording.episodes.map((data) => new Episode(data));
const panel = new Panel(part("card"), part("teams"), { choose, point });
const state = {
  number: 0, t: 0, playing: false, speed: 4, chosen: null, pointed: null, view: "action",
  aims: true, pushes: true, sights: false,
};
let theme = findTheme();
let picture = null; // the camera and the units that were last painted
let due = false; // whether a repaint is on its way
let before = null; // when the last frame of playing was painted

const episode = () => episodes[state.number];
const stepNow = () => Math.min(Math.floor(state.t), episode().steps);

// --- what is shown -------------------------------------------------------------------------------------------------

function refresh() {
  if (due) return;
  due = true;
  requestAnimationFrame(tick);
}

function tick(now) {
  due = false;
  if (state.playing) {
    const passed = before === null ? 0 : Math.min(now - before, 250) / 1000;
    state.t = Math.min(state.t + passed * state.speed, episode().steps);
    if (state.t >= episode().steps) state.playing = false;
  }
  before = state.playing ? now : null;
  paint();
  if (state.playing) refresh();
}

function paint() {
  picture = painter.paint(episode(), state.t, theme, state);
  const { scale, left, top } = picture.camera;
  Object.assign(part("scene").dataset, { scale, left, top });
  paintCurve();
  showStep();
}

let shownStep = null;

// Everything that changes from step to step only.
function showStep() {
  const k = stepNow();
  const key = [state.number, k, state.chosen, state.playing, theme.scheme].join();
  if (key === shownStep) return;
  shownStep = key;
  const { steps, reward, sums, result } = episode();
  part("step").textContent = `${k} / ${steps}`;
  part("reward").textContent = k > 0 ? shown(reward[k - 1], 2) : "–";
  part("return").textContent = shown(sums[k], 2);
  part("scrubber").value = k;
  part("scrubber").setAttribute("aria-valuetext", `step ${k} of ${steps}`);
  part("play-icon").setAttribute("d", ICONS[state.playing ? "pause" : "play"]);
  part("play").setAttribute("aria-label", state.playing ? "Pause" : "Play");
  part("outcome").hidden = k < steps;
  part("outcome").textContent = `${RESULTS[result]} · return ${shown(sums[steps], 2)}`;
  panel.show(k, state.chosen);
  const words = summary(k);
  part("scene").setAttribute("aria-label", words);
  if (!state.playing) part("spoken").textContent = words;
}

function summary(k) {
  const { stage, steps } = episode();
  const teams = stage.teams.map((team, i) => {
    const { alive, all } = episode().living(k, i);
    return episode().mortal(i) ? `${alive} of ${all} ${team.name} left` : `${all} ${team.name}`;
  });
  return `Step ${k} of ${steps}: ${teams.join(", ")}`;
}

// --- the curve -----------------------------------------------------------------------------------------------------

function paintCurve() {
  const canvas = part("curve");
  const pen = canvas.getContext("2d");
  const { width, height } = fit(canvas, pen);
  const { steps, reward, sums } = episode();
  const lanes = episode().stage.teams.length > 0 && episode().falls.length ? 16 : 0;
  const most = (values) => Math.max(...values.map(Math.abs), 1e-9);
  const [ofReward, ofSum] = [most(reward), most(sums)];
  const shares = [...reward.map((r) => r / ofReward), ...sums.map((s) => s / ofSum), 0];
  const [low, high] = [Math.min(...shares), Math.max(...shares)];
  const x = (k) => INSET + ((width - 2 * INSET) * k) / steps;
  const y = (share) => lanes + 3 + ((high - share) / (high - low || 1)) * (height - lanes - 6);
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = theme.bar;
  const wide = Math.max(x(1) - x(0) - 1, 1);
  reward.forEach((r, k) => {
    const [from, to] = [y(Math.max(r / ofReward, 0)), y(Math.min(r / ofReward, 0))];
    pen.fillRect(x(k) + 0.5, from, wide, to - from);
  });
  paintLine(pen, [[x(0), y(0)], [x(steps), y(0)]], theme.line, 1);
  paintLine(pen, sums.map((s, k) => [x(k), y(s / ofSum)]), theme.accent, 2);
  if (lanes) paintFalls(pen, x);
  paintLine(pen, [[x(state.t), 0], [x(state.t), height]], theme.text, 1.5);
}

function paintLine(pen, points, colour, width) {
  pen.beginPath();
  for (const point of points) pen.lineTo(...point);
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineJoin = "round";
  pen.stroke();
}

// A dot for everything that fell, one lane per team.
function paintFalls(pen, x) {
  for (const { u, k } of episode().falls) {
    const entity = episode().entities[u];
    pen.beginPath();
    pen.arc(x(k), 4 + 8 * (entity.team || 0), 3, 0, TURN);
    pen.fillStyle = colourOf(episode().stage, entity, theme.scheme);
    pen.fill();
  }
}

function showLegend() {
  const { stage, reward, sums, falls, entities } = episode();
  const entry = (kind, colour, text) => {
    const swatch = make("i", { class: kind });
    swatch.style.setProperty("--swatch", colour);
    return make("span", {}, swatch, text);
  };
  const largest = reward.reduce((a, r) => (Math.abs(r) > Math.abs(a) ? r : a), 0);
  const fell = stage.teams.map((team, i) => [team, falls.filter(({ u }) => entities[u].team === i).length]);
  part("legend").replaceChildren(
    entry("block", "var(--bar)", `reward of a step (largest ${shown(largest)})`),
    entry("", "var(--accent)", `return so far (${shown(sums[sums.length - 1], 2)} in the end)`),
    ...fell.map(([team, n]) => (n ? entry("dot", team.colour[theme.scheme], `${team.name} fallen (${n})`) : "")),
  );
}

// --- what users do -------------------------------------------------------------------------------------------------

function seek(t) {
  state.t = Math.max(0, Math.min(t, episode().steps));
  refresh();
}

function step(by) {
  state.playing = false;
  seek(by < 0 ? Math.ceil(state.t) + by : stepNow() + by);
}

function play(on) {
  if (on && state.t >= episode().steps) state.t = 0;
  state.playing = on;
  before = null;
  refresh();
}

function choose(u) {
  state.chosen = u === state.chosen ? null : u;
  if (state.view === "follow" && state.chosen === null) setView("action");
  refresh();
}

function point(u) {
  state.pointed = u;
  refresh();
}

function setView(view) {
  state.view = part("view").value = view;
  const first = episode().entities.findIndex((entity) => entity.agent !== undefined);
  if (view === "follow" && state.chosen === null) state.chosen = Math.max(0, first);
  refresh();
}

function setSpeed(speed) {
  state.speed = speed;
  part("speed").value = String(speed);
}

function changeSpeed(by) {
  const speeds = [...part("speed").options].map((option) => Number(option.value));
  setSpeed(speeds[Math.max(0, Math.min(speeds.length - 1, speeds.indexOf(state.speed) + by))]);
}

function open(number) {
  const sameStage = episode().stage === episodes[number].stage;
  Object.assign(state, { number, t: 0, pointed: null, chosen: sameStage ? state.chosen : null });
  [...part("episodes").children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === number)));
  part("episodes").children[number].scrollIntoView({ block: "nearest", inline: "nearest" });
  part("scrubber").max = episode().steps;
  part("aims").closest("label").hidden = !hasTargets(episode());
  part("pushes").closest("label").hidden = !episode().stage.vocabularies.some(({ pushes }) => pushes.length);
  part("sights").closest("label").hidden = !episode().entities.some((entity) => entity.sight);
  part("note").hidden = !episode().stage.note;
  part("note").textContent = episode().stage.note;
  redress();
}

// After a change of colours or of the episode.
function redress() {
  theme = findTheme();
  shownStep = null;
  panel.open(episode(), theme);
  showLegend();
  refresh();
}

// The unit under the pointer, with some tolerance, the smallest one first; null where there is none.
function unitAt(event) {
  const frame = part("scene").getBoundingClientRect();
  const { scale, left, top } = picture.camera;
  const [x, y] = [left + (event.clientX - frame.left) / scale, top - (event.clientY - frame.top) / scale];
  const { entities } = episode();
  const near = picture.moment
    .map((unit, u) => ({ u, unit, gap: Math.hypot(unit.x - x, unit.y - y) - entities[u].radius }))
    .filter(({ unit, gap }) => unit.presence > 0 && gap < 6 / scale);
  const outside = ({ gap }) => Math.max(gap, 0);
  near.sort((a, b) => outside(a) - outside(b) || entities[a.u].radius - entities[b.u].radius || a.gap - b.gap);
  return near.length ? near[0].u : null;
}

const KEYS = {
  " ": () => play(!state.playing),
  ArrowLeft: (event) => step(event.shiftKey ? -10 : -1),
  ArrowRight: (event) => step(event.shiftKey ? 10 : 1),
  ArrowUp: () => changeSpeed(1),
  ArrowDown: () => changeSpeed(-1),
  Home: () => step(-Infinity),
  End: () => step(Infinity),
  "[": () => open(Math.max(0, state.number - 1)),
  "]": () => open(Math.min(episodes.length - 1, state.number + 1)),
  Escape: () => state.chosen !== null && choose(state.chosen),
};

function press(event) {
  const key = KEYS[event.key];
  const target = event.target;
  const pressed = event.key === " " && target.matches("button:focus-visible, input[type=checkbox]");
  const own = pressed || target.matches("select");
  if (!key || own || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  key(event);
}

function listen() {
  const buttons = {
    first: () => step(-Infinity), back: () => step(-1), play: () => play(!state.playing),
    next: () => step(1), last: () => step(Infinity),
  };
  for (const [id, act] of Object.entries(buttons)) part(id).addEventListener("click", act);
  part("scrubber").addEventListener("input", (event) => {
    state.playing = false;
    seek(Number(event.target.value));
  });
  part("speed").addEventListener("change", (event) => setSpeed(Number(event.target.value)));
  part("view").addEventListener("change", (event) => setView(event.target.value));
  for (const name of ["aims", "pushes", "sights"])
    part(name).addEventListener("change", (event) => {
      state[name] = event.target.checked;
      refresh();
    });
  part("scene").addEventListener("click", (event) => {
    const u = unitAt(event);
    if (u !== null || state.chosen !== null) choose(u === null ? state.chosen : u);
  });
  part("scene").addEventListener("pointermove", (event) => {
    const u = unitAt(event);
    if (u !== state.pointed) point(u);
  });
  for (const kind of ["pointerdown", "pointermove"])
    part("curve").addEventListener(kind, (event) => {
      if (!event.buttons) return;
      const frame = part("curve").getBoundingClientRect();
      state.playing = false;
      seek(Math.round(((event.clientX - frame.left - INSET) / (frame.width - 2 * INSET)) * episode().steps));
    });
  document.addEventListener("keydown", press);
  darkness.addEventListener("change", redress);
  addEventListener("hashchange", follow);
  new ResizeObserver(refresh).observe(part("scene"));
  new ResizeObserver(refresh).observe(part("curve"));
}

// What the address asks for: #episode=2&step=12&unit=3&view=whole&speed=8&play=0
function follow() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const number = (name, from, to) => {
    const value = asked.has(name) ? Number(asked.get(name)) : NaN;
    return Number.isInteger(value) ? Math.max(from, Math.min(to, value)) : null;
  };
  open((number("episode", 1, episodes.length) ?? state.number + 1) - 1);
  state.chosen = number("unit", 0, episode().entities.length - 1);
  state.t = number("step", 0, episode().steps) ?? 0;
  const speed = number("speed", 1, 32);
  if ([...part("speed").options].some((option) => Number(option.value) === speed)) setSpeed(speed);
  if ([...part("view").options].some((option) => option.value === asked.get("view"))) setView(asked.get("view"));
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  play(asked.has("play") ? asked.get("play") !== "0" : !asked.has("step") && !still);
}

function hasTargets({ frames, stage }) {
  return Boolean(frames.target) || stage.vocabularies.some(({ aims }) => aims.length);
}

function makeEpisodeButton({ result, sums }, i) {
  const whole = sums[sums.length - 1];
  const sum = shown(whole, Math.abs(whole) < 10 ? 2 : 1);
  const words = [make("span", { class: "result" }, result), make("span", { class: "sum" }, sum)];
  const label = `Episode ${i + 1}, ${result}, return ${sum}`;
  const button = make("button", { type: "button", "aria-label": label, title: label }, `${i + 1}`, ...words);
  button.addEventListener("click", () => {
    open(i);
    play(true);
  });
  return button;
}

function start() {
  const { run, trained, policy, seed } = recording;
  const steps = trained.toLocaleString("en");
  part("facts").textContent = `${run} · trained for ${steps} steps · ${policy} · seed ${seed}`;
  part("episodes").append(...episodes.map(makeEpisodeButton));
  listen();
  follow();
  document.documentElement.dataset.ready = "yes";
}

start();
