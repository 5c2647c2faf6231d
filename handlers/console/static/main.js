// The page: signs in if it must, then shows what the engine's processes tell, once a second.

import { attribute, byId, cell, el, header, keyed, put, row, say, show } from "./dom.js";
import { count, nowMs, percent, rate, setClock, span } from "./format.js";
import { listenToOrders, showCircuits } from "./circuits.js";
import { listenToSearch, openFromAddress, showPayments } from "./payments.js";
import { makePlots } from "./plots.js";
import { listen, whenSignedIn } from "./signing.js";

const SILENCE_MS = 5000;
const AGAIN_MS = 3000;

let source = null;
let silent = 0;
let again = 0;
let plots = null;

const link = (state, text) => {
  const node = byId("link");
  if (node.dataset.state !== state && state !== "connecting") say(text);
  attribute(node, "data-state", state);
  put(byId("link-text"), text);
};

const tile = ({ name }) => {
  const value = el("span", { class: "value" });
  const more = el("span", { class: "minor" });
  const node = el("div", { class: "tile" }, el("dt", {}, name), el("dd", {}, value, more));
  return [node, (now) => {
    put(value, now.value);
    put(more, now.more);
    attribute(node, "data-level", now.level ?? "calm");
  }];
};

const waiting = (name, depth, { late = Infinity, any = "calm" } = {}) => {
  const many = depth?.waiting ?? 0;
  const age = many ? nowMs() - depth.oldest_ms : 0;
  return {
    name, value: count(many), more: many ? `oldest ${span(age)}` : "none waiting",
    level: many === 0 ? "calm" : age > late ? "bad" : any,
  };
};

const makeProcess = (first) => {
  const state = el("span", { class: "state" });
  const lag = cell("Loop lag", { class: "number" });
  const up = cell("Up", { class: "number" });
  const node = row(
    header({ class: "name", title: first.owner }, first.host), cell("Pid", { class: "number" }, String(first.pid)),
    cell("Roles", {}, first.roles.join(" ")), cell("State", {}, state), lag, up,
  );
  return [node, (now) => {
    const unfit = Object.entries(now.unfit ?? {});
    attribute(state, "data-state", unfit.length ? "open" : "closed");
    put(state, unfit.length ? `■ ${unfit.map(([part, why]) => `${part}: ${why}`).join("; ")}` : "● ready");
    put(lag, `${now.lag_ms ?? 0} ms`);
    put(up, span(nowMs() - now.started_ms));
  }];
};

const draw = (picture) => {
  setClock(picture.at_ms);
  show(byId("live"), true);
  show(byId("stale"), picture.stale);
  const { now, sums } = plots(picture.outcomes, picture.seconds);
  const ended = sums.completed + sums.failed;
  const depths = picture.depths;
  keyed(byId("tiles"), [
    { name: "Payments per second", value: rate(now), more: "mean of ten seconds" },
    {
      name: "Completed", value: ended ? percent(sums.completed / ended) : "–", more: ended ? `of ${count(ended)} in 2 min` : "none in 2 min",
      level: ended && sums.completed / ended < 0.5 ? "warn" : "calm",
    },
    waiting("Job queue", depths.jobs, { late: 30_000 }),
    waiting("Outbox", depths.outbox, { late: 30_000 }),
    waiting("Unknown outcomes", depths.unknown, { late: 600_000, any: "warn" }),
    waiting("Open items", depths.items, { any: "warn" }),
    waiting("Parked events", depths.parked, { any: "bad" }),
  ], (each) => each.name, tile);
  showCircuits(picture.circuits, picture.orders);
  showPayments(picture.recents);
  keyed(byId("process-rows"), picture.processes, (each) => each.owner, makeProcess);
  const many = picture.processes.length;
  link(picture.stale ? "stale" : "live", `live · ${many} ${many === 1 ? "process" : "processes"}`);
};

const heard = () => {
  clearTimeout(silent);
  silent = setTimeout(() => link("lost", "nothing heard, trying again"), SILENCE_MS);
};

const begin = () => {
  end();
  source = new EventSource("/console/stream");
  source.addEventListener("message", (event) => {
    heard();
    draw(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    clearTimeout(silent);
    link("lost", "connection lost, trying again");
    // The browser tries again by itself, except after a refusal.
    if (source.readyState === EventSource.CLOSED) again = setTimeout(start, AGAIN_MS);
  });
  openFromAddress();
};

const end = () => {
  source?.close();
  clearTimeout(silent);
  clearTimeout(again);
  show(byId("live"), false);
};

const start = async () => {
  try {
    await whenSignedIn(() => { begin(); });
  } catch (refused) {
    link("lost", refused.message);
    again = setTimeout(start, AGAIN_MS);
  }
};

const THEMES = ["auto", "light", "dark"];

const listenToTheme = () => {
  const button = byId("theme");
  const name = () => `Theme: ${document.documentElement.dataset.theme ?? "auto"}`;
  button.textContent = name();
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? "auto";
    const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
    if (next === "auto") {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem("console.theme");
    } else {
      document.documentElement.dataset.theme = next;
      localStorage.setItem("console.theme", next);
    }
    button.textContent = name();
  });
};

plots = makePlots();
listenToTheme();
listenToOrders();
listenToSearch();
listen(begin, end);
start();
