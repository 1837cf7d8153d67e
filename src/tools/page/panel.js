// Beside the stage: the chosen unit, and all units with what they have and do.

const GAUGES = { health: "Health", shield: "Shield", energy: "Energy", cooldown: "Cooldown" };
const HINT = "Choose a unit, on the map or in the list, to see what it does";
const LEFT = ", how far it sees and reaches and what it has left";
const SVG = document.querySelector("svg").namespaceURI; // not spelt out, so that the page names no address at all

// An element with attributes and children (elements or text).
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function makeSvg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// A unit as it looks on the battlefield, for lists.
function makeChip(stage, entity, theme) {
  const colour = colourOf(stage, entity, theme.scheme);
  const chip = makeSvg("svg", { viewBox: "-1 -1 2 2", class: "chip", "aria-hidden": "true" });
  chip.append(makeSvg("circle", { r: 1, fill: colour }));
  const corners = stage.kinds[entity.kind].emblem.map(([x, y]) => `${0.86 * x},${-0.86 * y}`);
  if (corners.length) chip.append(makeSvg("polygon", { points: corners.join(" "), fill: shade(colour, theme.scheme) }));
  const mark = makeSvg("text", {
    y: 0.06, fill: theme.ink, "font-size": markSize(entity.mark, 1), "font-weight": 600,
    "text-anchor": "middle", "dominant-baseline": "central",
  });
  mark.textContent = entity.mark;
  chip.append(mark);
  return chip;
}

// A bar that is filled from the left; returns it and the part that is.
function makeBar(tag, className, name) {
  const filled = make("i");
  filled.style.setProperty("--of", `var(--${name})`);
  return { bar: make(tag, className ? { class: className } : {}, filled), filled };
}

function fill(filled, value, most) {
  filled.style.transform = `scaleX(${Math.max(0, Math.min(1, value / most))})`;
}

class Panel {
  constructor(card, teams, { choose, point }) {
    Object.assign(this, { card, teams, choose, point });
    this.rows = [];
  }

  // Makes the lists of an episode anew.
  open(episode, theme) {
    Object.assign(this, { episode, theme });
    const { stage, entities } = episode;
    this.rows = entities.map((entity, u) => (entity.team === undefined ? null : this.makeRow(entity, u)));
    this.counts = stage.teams.map(() => make("span"));
    const lists = stage.teams.map((team, i) => {
      const rows = this.rows.filter((row, u) => row && entities[u].team === i).map((row) => make("li", {}, row.button));
      return make("section", {}, make("h2", {}, make("span", {}, team.name), this.counts[i]), make("ul", {}, ...rows));
    });
    this.teams.replaceChildren(...lists);
  }

  makeRow(entity, u) {
    const bars = make("span", { class: "bars" });
    const filled = {};
    for (const name of ["health", "shield"])
      if (entity[name]) {
        const made = makeBar("b", "", name);
        bars.append(made.bar);
        filled[name] = made.filled;
      }
    const does = make("span", { class: "does" });
    const chip = makeChip(this.episode.stage, entity, this.theme);
    const kind = make("span", {}, this.episode.stage.kinds[entity.kind].name);
    const button = make("button", { type: "button", "data-unit": u }, chip, kind, does, bars);
    button.addEventListener("click", () => this.choose(u));
    button.addEventListener("pointerenter", () => this.point(u));
    button.addEventListener("pointerleave", () => this.point(null));
    return { button, filled, does };
  }

  // Shows step k.
  show(k, chosen) {
    const { episode } = this;
    this.rows.forEach((row, u) => row && this.showRow(row, k, u, chosen));
    this.counts.forEach((count, i) => {
      const { alive, all } = episode.living(k, i);
      count.textContent = episode.mortal(i) ? `${alive} of ${all} left` : `${all}`;
    });
    this.showCard(k, chosen);
  }

  showRow({ button, filled, does }, k, u, chosen) {
    const { episode } = this;
    const entity = episode.entities[u];
    const alive = episode.alive(k, u);
    for (const [name, part] of Object.entries(filled)) fill(part, episode.at(name, k, u), entity[name]);
    does.textContent = alive ? episode.doing(k, u) : episode.absence(k, u);
    button.classList.toggle("dead", !alive);
    button.setAttribute("aria-pressed", String(u === chosen));
    const health = shown(episode.at("health", k, u), 0);
    const left = alive && entity.health ? `, health ${health} of ${shown(entity.health, 0)}` : "";
    button.setAttribute("aria-label", `${entity.name}${left}, ${does.textContent}`);
  }

  showCard(k, u) {
    const { episode, card } = this;
    if (u === null) {
      const fighting = episode.entities.some((entity) => entity.health);
      card.replaceChildren(make("p", { class: "hint" }, `${HINT}${fighting ? LEFT : ""}.`));
      return;
    }
    const entity = episode.entities[u];
    const alive = episode.alive(k, u);
    const who = entity.agent === undefined ? teamName(episode.stage, entity) : `agent ${entity.agent}`;
    const also = who === entity.name ? "" : make("small", {}, who);
    const heading = make("h2", {}, makeChip(episode.stage, entity, this.theme), entity.name, also);
    const where = make("p", { class: "where" }, this.where(k, u, alive));
    card.replaceChildren(heading, this.makeAct(k, u, alive), this.makeGauges(k, u), where);
  }

  makeAct(k, u, alive) {
    const { episode } = this;
    const entity = episode.entities[u];
    const agent = entity.agent;
    const does = alive ? episode.doing(k, u) || (agent === undefined ? "" : "–") : episode.absence(k, u);
    const act = make("p", { class: "act", id: "act" }, does);
    if (alive && agent !== undefined && k < episode.steps && !Array.isArray(episode.actions[k][agent]))
      act.append(" ", make("small", {}, `one of ${episode.choices[k][agent]} available`));
    return act;
  }

  makeGauges(k, u) {
    const { episode } = this;
    const entity = episode.entities[u];
    const list = make("dl", { class: "gauges" });
    for (const [name, title] of Object.entries(GAUGES)) {
      if (!entity[name]) continue;
      const value = episode.at(name, k, u);
      const { bar, filled } = makeBar("div", "gauge", name);
      fill(filled, value, entity[name]);
      list.append(make("dt", {}, title), bar, make("dd", {}, `${shown(value, 1)} / ${shown(entity[name], 1)}`));
    }
    return list;
  }

  where(k, u, alive) {
    const { episode } = this;
    const entity = episode.entities[u];
    const target = episode.target(k, u);
    const parts = [];
    if (alive) parts.push(`at ${shown(episode.at("x", k, u), 2)}, ${shown(episode.at("y", k, u), 2)}`);
    if (entity.sight) parts.push(`sees ${shown(entity.sight, 2)} far`);
    if (entity.reach) parts.push(`reaches ${shown(entity.reach, 2)}`);
    if (alive && target >= 0) {
      const other = episode.entities[target];
      parts.push(`after ${other.name} (${teamName(episode.stage, other)})`);
    }
    return parts.join(" · ");
  }
}

function teamName(stage, entity) {
  return entity.team === undefined ? stage.kinds[entity.kind].name : stage.teams[entity.team].name;
}
