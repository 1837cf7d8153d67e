// The stage: what any moment of an episode looks like on a canvas.

const recording = JSON.parse(document.getElementById("recording").textContent);
const BARS = ["health", "shield", "energy"];
const TRAIL = 12; // steps of the chosen unit's way that stay visible
const TURN = 2 * Math.PI;

// One episode with its stage, and what follows from its numbers.
class Episode {
  constructor(data) {
    Object.assign(this, data);
    this.stage = recording.stages[data.stage];
    this.entities = this.stage.entities;
    this.steps = data.reward.length;
    this.sums = [0];
    for (const reward of data.reward) this.sums.push(this.sums[this.sums.length - 1] + reward);
    this.falls = this.findFalls();
    this.box = this.findBox();
  }

  at(name, k, u) {
    const column = this.frames[name];
    return column ? column[k][u] : 0;
  }

  alive(k, u) {
    return this.frames.alive[k][u] === "1";
  }

  // Where and before which frame something died.
  findFalls() {
    const falls = [];
    for (let k = 1; k <= this.steps; k++)
      for (let u = 0; u < this.entities.length; u++)
        if (this.alive(k - 1, u) && !this.alive(k, u))
          falls.push({ u, k, x: this.at("x", k - 1, u), y: this.at("y", k - 1, u) });
    return falls;
  }

  // What the living ever take up, with some room around it.
  findBox() {
    const { low, high } = this.stage;
    let [left, bottom, right, top] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let k = 0; k <= this.steps; k++)
      for (let u = 0; u < this.entities.length; u++)
        if (this.alive(k, u)) {
          const [x, y, r] = [this.at("x", k, u), this.at("y", k, u), this.entities[u].radius];
          [left, bottom] = [Math.min(left, x - r), Math.min(bottom, y - r)];
          [right, top] = [Math.max(right, x + r), Math.max(top, y + r)];
        }
    const room = 0.05 * Math.max(high[0] - low[0], high[1] - low[1]);
    return { left: left - room, bottom: bottom - room, right: right + room, top: top + room };
  }

  // A number between two frames.
  between(name, k, f, u) {
    const now = this.at(name, k, u);
    return f > 0 ? now + f * (this.at(name, k + 1, u) - now) : now;
  }

  // What a unit does from frame k on: its agent's action, else its order.
  doing(k, u) {
    const entity = this.entities[u];
    if (entity.agent !== undefined) return k < this.steps ? this.actionOf(k, entity) : "";
    const word = this.words[this.at("order", this.orderedBy(k, u), u)] || "";
    const target = this.target(k, u);
    return target >= 0 ? `${word} ${this.entities[target].mark}`.trim() : word;
  }

  // The frame that tells what a unit does in step k: the one after it, unless it or its target falls before that.
  orderedBy(k, u) {
    if (k === this.steps || !this.alive(k + 1, u)) return k;
    if (!this.frames.target) return k + 1;
    const [now, then] = [this.at("target", k, u), this.at("target", k + 1, u)];
    return then < 0 && now >= 0 && this.alive(k, now) && !this.alive(k + 1, now) ? k : k + 1;
  }

  // Whom a unit is after in step k, -1 being nobody: what its action says, or else its order.
  target(k, u) {
    const entity = this.entities[u];
    const action = entity.agent !== undefined && k < this.steps ? this.actions[k][entity.agent] : null;
    const aims = this.stage.vocabularies[entity.vocabulary].aims;
    if (aims.length && action !== null) return aims[action] ?? -1;
    return this.frames.target ? this.at("target", this.orderedBy(k, u), u) : -1;
  }

  // The arrow of what an agent's action does in step k, null where there is none: of its number, or of its numbers' sum.
  push(k, u) {
    const { agent, vocabulary } = this.entities[u];
    const { pushes } = this.stage.vocabularies[vocabulary];
    if (!pushes.length || agent === undefined || k >= this.steps) return null;
    const action = this.actions[k][agent];
    if (!Array.isArray(action)) return pushes[action];
    return [0, 1].map((axis) => pushes.reduce((sum, push, i) => sum + action[i] * push[axis], 0));
  }

  actionOf(k, entity) {
    const action = this.actions[k][entity.agent];
    if (Array.isArray(action)) return `(${action.map((x) => shown(x, 2)).join(", ")})`;
    return this.stage.vocabularies[entity.vocabulary].actions[action] || `action ${action}`;
  }

  // Why something is not there before step k.
  absence(k, u) {
    return this.falls.some((fall) => fall.u === u && fall.k <= k) ? "fallen" : "not there yet";
  }

  // Whether members of a team can get lost, by what they have or by what happens.
  mortal(team) {
    return this.entities.some((entity) => entity.team === team && entity.health)
      || this.falls.some(({ u }) => this.entities[u].team === team);
  }

  living(k, team) {
    let [alive, all] = [0, 0];
    this.entities.forEach((entity, u) => {
      if (entity.team !== team) return;
      all += 1;
      alive += this.alive(k, u);
    });
    return { alive, all };
  }
}

// The size of a mark's letters within a disc.
function markSize(mark, radius) {
  return radius * (mark.length > 1 ? 1.96 / mark.length : 1.2);
}

function shown(value, places = 2) {
  const text = value.toFixed(places).replace(/^-(0(\.0*)?)$/, "$1");
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

// --- colours -----------------------------------------------------------------------------------------------------

const darkness = matchMedia("(prefers-color-scheme: dark)");

// The style sheet's colours and the recording's, for the scheme that is on.
function findTheme() {
  const style = getComputedStyle(document.documentElement);
  const theme = { scheme: darkness.matches ? "dark" : "light" };
  for (const name of ["void", "floor", "cliff", "edge", "ink", "trough", "health", "shield", "energy", "hit", "text",
    "faint", "accent", "bar", "line", "grid"]) theme[name] = style.getPropertyValue(`--${name}`).trim();
  return theme;
}

function colourOf(stage, entity, scheme) {
  return (entity.team === undefined ? stage.nobody : stage.teams[entity.team].colour)[scheme];
}

// An entity's colour as it is inside its emblem: darker by day, lighter by night.
function shade(colour, scheme) {
  const [to, share] = scheme === "dark" ? [255, 0.38] : [0, 0.34];
  const parts = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return `rgb(${parts.map((part) => Math.round(part + share * (to - part))).join(",")})`;
}

// --- painting ----------------------------------------------------------------------------------------------------

// The part of the world that is in view: pixels per unit of length, and the world's place of the upper left corner.
function findCamera(episode, moment, options, width, height) {
  const { low, high } = episode.stage;
  let box = { left: low[0], bottom: low[1], right: high[0], top: high[1] };
  if (options.view === "action") box = episode.box;
  if (options.view === "follow" && options.chosen !== null) {
    const { x, y } = moment[options.chosen];
    const half = Math.max(1.1 * (episode.entities[options.chosen].sight || 0), 0.2 * (high[0] - low[0]));
    box = { left: x - half, bottom: y - half, right: x + half, top: y + half };
  }
  const scale = Math.min(width / (box.right - box.left), height / (box.top - box.bottom));
  return {
    scale,
    left: (box.left + box.right) / 2 - width / scale / 2,
    top: (box.bottom + box.top) / 2 + height / scale / 2,
  };
}

// Every entity at time t: where it is, what it has, and how much of it there still is (0 to 1).
function momentAt(episode, t) {
  const k = Math.min(Math.floor(t), episode.steps);
  const f = k < episode.steps ? t - k : 0;
  return episode.entities.map((entity, u) => {
    const [now, then] = [episode.alive(k, u), episode.alive(Math.min(k + 1, episode.steps), u)];
    const from = now || f === 0 ? k : k + 1; // what only just appears has not been anywhere before
    const g = now ? f : 0;
    const unit = { presence: now ? (then ? 1 : 1 - f) : then ? f : 0, hit: 0 };
    for (const name of ["x", "y", "health", "shield", "energy", "cooldown"])
      unit[name] = episode.between(name, from, g, u);
    const loss = f > 0 && now ? lost(episode, k, u) : 0;
    if (loss > 0) unit.hit = (1 - f) * Math.min(1, 0.35 + 4 * loss);
    return unit;
  });
}

// The share of its health and shield that a unit loses in step k.
function lost(episode, k, u) {
  const all = (episode.entities[u].health || 0) + (episode.entities[u].shield || 0);
  const left = (i) => episode.at("health", i, u) + episode.at("shield", i, u);
  return all > 0 ? (left(k) - left(k + 1)) / all : 0;
}

class Painter {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.grounds = new Map();
  }

  // Draws time t of an episode; returns the camera and the units, by which clicks are understood.
  paint(episode, t, theme, options) {
    const { width, height } = fit(this.canvas, this.pen);
    const moment = momentAt(episode, t);
    const camera = findCamera(episode, moment, options, width, height);
    Object.assign(this, { episode, t, theme, options, moment, camera });
    this.paintGround(width, height);
    this.paintRanges();
    this.paintFallen();
    if (options.aims) this.paintAims();
    const order = moment.map((_, u) => u).filter((u) => moment[u].presence > 0);
    const owned = (u) => Number(episode.entities[u].team !== undefined);
    // What is small stays on top, and of equals what is nobody's lies below.
    order.sort((u, v) => episode.entities[v].radius - episode.entities[u].radius || owned(u) - owned(v));
    for (const u of order) this.paintUnit(u);
    if (options.pushes) for (const u of order) this.paintPush(u);
    for (const u of order) this.paintBars(u);
    return { camera, moment };
  }

  place(x, y) {
    return [(x - this.camera.left) * this.camera.scale, (this.camera.top - y) * this.camera.scale];
  }

  paintGround(width, height) {
    const { pen, camera, theme } = this;
    const { scale, left, top } = camera;
    pen.fillStyle = theme.void;
    pen.fillRect(0, 0, width, height);
    const ground = this.groundOf(this.episode.stage);
    pen.save();
    pen.transform(scale, 0, 0, -scale, -left * scale, top * scale);
    pen.fillStyle = theme.floor;
    pen.fill(ground.floor);
    pen.fillStyle = theme.cliff;
    pen.fill(ground.cliff);
    pen.restore();
    const view = new DOMMatrix([scale, 0, 0, -scale, -left * scale, top * scale]);
    this.paintPath(ground.grid, view, theme.grid, 1);
    this.paintPath(ground.edge, view, theme.edge, 1.25);
  }

  // A path of the world, in a line as wide as it would be on the page.
  paintPath(path, view, colour, width) {
    const seen = new Path2D();
    seen.addPath(path, view);
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = width;
    this.pen.stroke(seen);
  }

  // Floor, cliffs and edges as paths in the world's units, made once.
  groundOf(stage) {
    if (!this.grounds.has(stage)) this.grounds.set(stage, pathsOf(stage));
    return this.grounds.get(stage);
  }

  circle(x, y, radius) {
    this.pen.beginPath();
    this.pen.arc(x, y, radius, 0, TURN);
  }

  // What agents see: all of them faintly, the chosen one with its weapon's range and the way that it came.
  paintRanges() {
    const { episode, moment, options, theme } = this;
    episode.entities.forEach((entity, u) => {
      if (options.sights && entity.sight && moment[u].presence > 0 && u !== options.chosen)
        this.paintRange(u, entity.sight, 0.035, 0.25, []);
    });
    const u = options.chosen;
    if (u === null || moment[u].presence === 0) return;
    const entity = episode.entities[u];
    if (entity.sight) this.paintRange(u, entity.sight, theme.scheme === "dark" ? 0.13 : 0.09, 0.9, []);
    if (entity.reach) this.paintRange(u, entity.radius + entity.reach, 0, 0.9, [6, 5]);
    this.paintTrail(u);
  }

  paintRange(u, radius, inside, line, dash) {
    const { pen, theme, camera } = this;
    const [x, y] = this.place(this.moment[u].x, this.moment[u].y);
    pen.save();
    pen.fillStyle = pen.strokeStyle = colourOf(this.episode.stage, this.episode.entities[u], theme.scheme);
    this.circle(x, y, radius * camera.scale);
    pen.globalAlpha = inside;
    pen.fill();
    pen.globalAlpha = line;
    pen.setLineDash(dash);
    pen.lineWidth = 1.5;
    pen.stroke();
    pen.restore();
  }

  paintTrail(u) {
    const { pen, episode, theme, t } = this;
    const k = Math.floor(t);
    pen.save();
    pen.strokeStyle = theme.text;
    pen.lineWidth = 2;
    let from = this.place(this.moment[u].x, this.moment[u].y);
    for (let i = k; i >= Math.max(0, k - TRAIL) && episode.alive(i, u); i--) {
      const to = this.place(episode.at("x", i, u), episode.at("y", i, u));
      pen.globalAlpha = 0.45 * (1 - (k - i) / (TRAIL + 1));
      pen.beginPath();
      pen.moveTo(...from);
      pen.lineTo(...to);
      pen.stroke();
      from = to;
    }
    pen.restore();
  }

  // A cross where something fell and has not risen again.
  paintFallen() {
    const { pen, episode, theme, t, camera } = this;
    pen.save();
    pen.lineWidth = 2;
    pen.lineCap = "round";
    for (const { u, k, x, y } of episode.falls) {
      if (k > t || this.moment[u].presence > 0) continue;
      const [px, py] = this.place(x, y);
      const arm = Math.max(3, 0.45 * episode.entities[u].radius * camera.scale);
      pen.strokeStyle = colourOf(episode.stage, episode.entities[u], theme.scheme);
      pen.globalAlpha = 0.4;
      pen.beginPath();
      pen.moveTo(px - arm, py - arm);
      pen.lineTo(px + arm, py + arm);
      pen.moveTo(px - arm, py + arm);
      pen.lineTo(px + arm, py - arm);
      pen.stroke();
    }
    pen.restore();
  }

  // Lines from units to those that they are after, edge to edge, dashes running to the other; mates help, in green.
  paintAims() {
    const { pen, episode, moment, options, theme, t } = this;
    const k = Math.min(Math.floor(t), episode.steps);
    pen.save();
    pen.setLineDash([5, 4]);
    pen.lineDashOffset = -18 * (t - k) * 2;
    episode.entities.forEach((entity, u) => {
      const target = episode.target(k, u);
      if (target < 0 || !episode.alive(k, u) || !episode.alive(k, target)) return;
      const helps = entity.team !== undefined && entity.team === episode.entities[target].team;
      pen.strokeStyle = helps ? theme.health : colourOf(episode.stage, entity, theme.scheme);
      pen.globalAlpha = u === options.chosen ? 1 : 0.5;
      pen.lineWidth = u === options.chosen ? 2.5 : 1.25;
      this.paintAim(moment[u], entity.radius, moment[target], episode.entities[target].radius);
    });
    pen.restore();
  }

  paintAim(unit, radius, target, targetRadius) {
    const [dx, dy] = [target.x - unit.x, target.y - unit.y];
    const far = Math.hypot(dx, dy);
    if (far <= radius + targetRadius) return;
    const at = (share) => this.place(unit.x + share * dx, unit.y + share * dy);
    this.pen.beginPath();
    this.pen.moveTo(...at(radius / far));
    this.pen.lineTo(...at(1 - targetRadius / far));
    this.pen.stroke();
  }

  paintUnit(u) {
    const { pen, episode, theme, options, camera } = this;
    const [entity, unit] = [episode.entities[u], this.moment[u]];
    const [x, y] = this.place(unit.x, unit.y);
    const radius = entity.radius * camera.scale * (0.6 + 0.4 * unit.presence);
    const colour = colourOf(episode.stage, entity, theme.scheme);
    pen.save();
    pen.globalAlpha = unit.presence;
    this.circle(x, y, radius);
    if (entity.team === undefined) this.fillHollow(colour);
    else {
      pen.fillStyle = colour;
      pen.fill();
      pen.strokeStyle = theme.floor;
      pen.lineWidth = 1;
      pen.stroke();
      paintEmblem(pen, episode.stage.kinds[entity.kind].emblem, x, y, 0.86 * radius, shade(colour, theme.scheme));
    }
    this.paintMark(entity, x, y, radius, entity.team === undefined ? colour : theme.ink);
    pen.restore();
    if (unit.hit > 0) this.paintRing(x, y, radius + 1.5, theme.hit, 3, unit.hit);
    if (u === options.chosen) this.paintRing(x, y, radius + 4, theme.text, 2, 1);
    else if (u === options.pointed) this.paintRing(x, y, radius + 4, theme.faint, 2, 1);
  }

  // What its agent's action pushes it to, as an arrow from its edge.
  paintPush(u) {
    const { pen, episode, theme, options, camera } = this;
    const push = episode.push(Math.floor(this.t), u);
    const far = push ? Math.hypot(...push) * camera.scale : 0;
    if (far < 1) return;
    const [x, y] = this.place(this.moment[u].x, this.moment[u].y);
    const [dx, dy] = [(push[0] * camera.scale) / far, (-push[1] * camera.scale) / far];
    const at = (along, aside = 0) => [x + along * dx - aside * dy, y + along * dy + aside * dx];
    const from = episode.entities[u].radius * camera.scale;
    const head = Math.min(9, Math.max(4, far / 3));
    pen.save();
    pen.globalAlpha = (options.chosen === null || u === options.chosen ? 1 : 0.6) * this.moment[u].presence;
    pen.strokeStyle = pen.fillStyle = theme.text;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.moveTo(...at(from));
    pen.lineTo(...at(from + far - head / 2));
    pen.stroke();
    pen.beginPath();
    pen.moveTo(...at(from + far));
    pen.lineTo(...at(from + far - head, head / 2));
    pen.lineTo(...at(from + far - head, -head / 2));
    pen.fill();
    pen.restore();
  }

  // What is nobody's is a ring.
  fillHollow(colour) {
    const { pen } = this;
    pen.fillStyle = pen.strokeStyle = colour;
    pen.lineWidth = 2;
    pen.stroke();
    pen.globalAlpha *= 0.2;
    pen.fill();
    pen.globalAlpha /= 0.2;
  }

  paintMark(entity, x, y, radius, colour) {
    const { pen } = this;
    const size = markSize(entity.mark, radius);
    if (size < 6) return; // too small to be read
    pen.font = `600 ${size}px system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillStyle = colour;
    pen.fillText(entity.mark, x, y + 0.06 * size);
  }

  paintRing(x, y, radius, colour, width, alpha) {
    this.pen.save();
    this.pen.globalAlpha = alpha;
    this.pen.strokeStyle = colour;
    this.pen.lineWidth = width;
    this.circle(x, y, radius);
    this.pen.stroke();
    this.pen.restore();
  }

  // What is left of what a unit has, over its head.
  paintBars(u) {
    const { pen, theme, camera } = this;
    const [entity, unit] = [this.episode.entities[u], this.moment[u]];
    const [x, y] = this.place(unit.x, unit.y);
    const half = Math.max(0.9 * entity.radius * camera.scale, 7);
    const thick = Math.max(3, Math.min(5, 0.12 * camera.scale));
    let bottom = y - entity.radius * camera.scale - 1;
    pen.save();
    pen.globalAlpha = unit.presence;
    for (const name of BARS) {
      if (!entity[name]) continue;
      const share = Math.max(0, Math.min(1, unit[name] / entity[name]));
      pen.fillStyle = theme.trough;
      pen.fillRect(x - half, bottom - thick, 2 * half, thick);
      pen.fillStyle = theme[name];
      pen.fillRect(x - half, bottom - thick, 2 * half * share, thick);
      bottom -= thick + 1;
    }
    pen.restore();
  }
}

// Makes a canvas as fine as the screen, and its unit one pixel of the page.
function fit(canvas, pen) {
  const { width, height } = canvas.getBoundingClientRect();
  const fine = devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * fine), Math.round(height * fine)];
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
  pen.setTransform(fine, 0, 0, fine, 0, 0);
  return { width, height };
}

function paintEmblem(pen, corners, x, y, radius, colour) {
  if (!corners.length) return;
  pen.beginPath();
  for (const [dx, dy] of corners) pen.lineTo(x + radius * dx, y - radius * dy);
  pen.closePath();
  pen.fillStyle = colour;
  pen.fill();
}

// Floor, cliffs, the lines between cells, and the edges of the floor, in the world's units.
function pathsOf(stage) {
  const { low, high, ground } = stage;
  const { columns, rows, cells } = ground || openGround(low, high);
  const paths = { floor: new Path2D(), cliff: new Path2D(), grid: new Path2D(), edge: new Path2D() };
  const [wide, tall] = [(high[0] - low[0]) / columns, (high[1] - low[1]) / rows];
  const cell = (i, j) => (i < 0 || j < 0 || i >= columns || j >= rows ? "1" : cells[j * columns + i]);
  const line = (one, other, x, y, dx, dy) => {
    if (one === "1" && other === "1") return;
    const path = paths[one === other ? "grid" : "edge"];
    path.moveTo(x, y);
    path.lineTo(x + dx, y + dy);
  };
  for (let j = 0; j <= rows; j++)
    for (let i = 0; i <= columns; i++) {
      const [x, y, here] = [low[0] + i * wide, low[1] + j * tall, cell(i, j)];
      if (here !== "1") paths[here === "2" ? "cliff" : "floor"].rect(x, y, wide, tall);
      line(here, cell(i - 1, j), x, y, 0, tall);
      line(here, cell(i, j - 1), x, y, wide, 0);
    }
  return paths;
}

// A world without terrain: all floor, in about ten cells of a round size.
function openGround(low, high) {
  const size = 10 ** Math.floor(Math.log10((high[0] - low[0]) / 4));
  const [columns, rows] = [0, 1].map((axis) => Math.max(1, Math.round((high[axis] - low[axis]) / size)));
  return { columns, rows, cells: "0".repeat(columns * rows) };
}
