// Two small plots of the last two minutes, drawn once and then moved.

import { attribute, byId, el, put, svg } from "./dom.js";
import { rate } from "./format.js";

const WIDTH = 480;
const HEIGHT = 96;
const TOP = 12;

const frame = (parent, ...inside) => {
  const drawn = svg(
    "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT + 14}`, role: "img", preserveAspectRatio: "none" },
    svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: TOP, y2: TOP }),
    svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: (HEIGHT + TOP) / 2, y2: (HEIGHT + TOP) / 2 }),
    svg("line", { class: "base", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }),
    ...inside,
  );
  const top = el("span", { class: "most", "aria-hidden": "true" });
  const feet = el("p", { class: "feet", "aria-hidden": "true" }, el("span", {}, "2 min ago"), el("span", {}, "now"));
  parent.append(top, drawn, feet);
  return { drawn, top };
};

const niceCeiling = (value) => {
  for (let step = 1; ; step *= 10) {
    for (const factor of [1, 2, 5]) if (value <= step * factor) return step * factor;
  }
};

// Every kind has a shape and a word of its own beside its colour.
const KINDS = ["completed", "failed", "cancelled"];
const FILLS = { failed: "url(#hatched)", cancelled: "url(#dotted)" };

export const makePlots = () => {
  const line = svg("path", { class: "line" });
  const area = svg("path", { class: "area" });
  const rates = frame(byId("rate"), area, line);
  const patterns = svg(
    "defs", {},
    svg("pattern", { id: "hatched", width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { class: "failed", width: 2.4, height: 4 })),
    svg("pattern", { id: "dotted", width: 4, height: 4, patternUnits: "userSpaceOnUse" },
      svg("circle", { class: "cancelled", cx: 2, cy: 2, r: 1.2 })),
  );
  const bars = Object.fromEntries(KINDS.map((kind) => [kind, svg("path", { class: `bar ${kind}`, fill: FILLS[kind] })]));
  const outcomes = frame(byId("outcomes"), patterns, ...KINDS.map((kind) => bars[kind]));
  const keys = Object.fromEntries([...KINDS, "refunded", "unknown"].map((kind) => {
    const number = el("b", {});
    byId("outcomes-key").append(el("span", { class: `entry ${kind}` }, el("i", { "aria-hidden": "true" }), `${kind} `, number));
    return [kind, number];
  }));
  return (names, seconds) => {
    const of = (row, kind) => row[names.indexOf(kind)] ?? 0;
    const ended = seconds.map((row) => KINDS.reduce((sum, kind) => sum + of(row, kind), 0));
    const most = niceCeiling(Math.max(1, ...ended));
    const x = (place) => (place / (seconds.length - 1)) * WIDTH;
    const y = (value) => HEIGHT - (value / most) * (HEIGHT - TOP);
    const points = ended.map((value, place) => `${x(place).toFixed(1)} ${y(value).toFixed(1)}`).join("L");
    attribute(line, "d", `M${points}`);
    attribute(area, "d", `M0 ${HEIGHT}L${points}L${WIDTH} ${HEIGHT}Z`);
    const width = WIDTH / seconds.length;
    const below = seconds.map(() => 0);
    for (const kind of KINDS) {
      let path = "";
      seconds.forEach((row, place) => {
        const value = of(row, kind);
        if (value === 0) return;
        const bottom = y(below[place]);
        below[place] += value;
        path += `M${(place * width).toFixed(1)} ${bottom.toFixed(1)}V${y(below[place]).toFixed(1)}h${(width - 0.8).toFixed(1)}V${bottom.toFixed(1)}Z`;
      });
      attribute(bars[kind], "d", path);
    }
    for (const plot of [rates, outcomes]) put(plot.top, `${most}/s`);
    const sums = Object.fromEntries(Object.keys(keys).map((kind) => [kind, seconds.reduce((sum, row) => sum + of(row, kind), 0)]));
    for (const [kind, node] of Object.entries(keys)) put(node, String(sums[kind]));
    const now = ended.slice(-10).reduce((sum, value) => sum + value, 0) / 10;
    const average = ended.reduce((sum, value) => sum + value, 0) / ended.length;
    put(byId("rate-key"), `now ${rate(now)} · mean ${rate(average)} · peak ${Math.max(...ended)}`);
    attribute(rates.drawn, "aria-label", `Payments ended per second over two minutes: now ${rate(now)}, peak ${Math.max(...ended)}`);
    attribute(outcomes.drawn, "aria-label", `In two minutes: ${Object.entries(sums).map(([kind, sum]) => `${sum} ${kind}`).join(", ")}`);
    return { now, sums };
  };
};
