// Circuits: how they are, and what may be done with them by hand.

import { order } from "./api.js";
import { attribute, byId, cell, el, header, keyed, put, row, say, show } from "./dom.js";
import { ago, clock, count, nowMs, percent, span } from "./format.js";

const STATES = {
  closed: ["●", "closed"],
  half_open: ["◐", "half open"],
  open: ["■", "open"],
  forced_open: ["▣", "held open"],
  forced_closed: ["◎", "held closed"],
};

const ACTIONS = {
  "force-open": {
    label: "Force open",
    what: "Nothing goes to this counterparty from any process, until somebody closes or resets its circuit.",
  },
  close: {
    label: "Close",
    what: "Everything goes to this counterparty, whatever it answers: its circuit cannot open until somebody resets it.",
  },
  reset: { label: "Reset", what: "Its own answers decide again, from empty counts, in every process." },
};

let asked = null;

const ask = (name, action) => {
  asked = { name, action };
  byId("confirm-title").textContent = `${ACTIONS[action].label} ${name}?`;
  byId("confirm-what").textContent = ACTIONS[action].what;
  byId("confirm-yes").textContent = `${ACTIONS[action].label} ${name}`;
  byId("confirm-error").textContent = "";
  byId("reason").value = "";
  const actor = byId("actor");
  actor.value ||= localStorage.getItem("console.actor") ?? "";
  byId("confirm").showModal();
  (actor.value === "" ? actor : byId("reason")).focus();
};

const answer = async (event) => {
  event.preventDefault();
  const { name, action } = asked;
  const actor = byId("actor").value.trim();
  byId("confirm-yes").disabled = true;
  try {
    await order(name, action, actor, byId("reason").value.trim());
  } catch (refused) {
    byId("confirm-error").textContent = refused.message;
    return;
  } finally {
    byId("confirm-yes").disabled = false;
  }
  localStorage.setItem("console.actor", actor);
  byId("confirm").close();
  say(`${name}: ${ACTIONS[action].label.toLowerCase()} ordered`);
};

export const listenToOrders = () => {
  byId("confirm-form").addEventListener("submit", answer);
  byId("confirm-no").addEventListener("click", () => byId("confirm").close());
};

const makeRow = (circuit) => {
  const glyph = el("span", { class: "glyph", "aria-hidden": "true" });
  const word = el("span", {});
  const state = el("span", { class: "state" }, glyph, word);
  const mixed = el("span", { class: "minor" });
  const failures = cell("Failures in a row", { class: "number" });
  const calls = cell("Calls in window", { class: "number" });
  const failed = cell("Failed", { class: "number" });
  const slow = cell("Slow", { class: "number" });
  const trial = cell("Next trial", { class: "number" });
  const held = cell("Held by", { class: "held" });
  const buttons = Object.entries(ACTIONS).map(([action, { label }]) => {
    const button = el("button", { type: "button", "data-action": action, "aria-label": `${label} ${circuit.name}` }, label);
    button.addEventListener("click", () => ask(circuit.name, action));
    return button;
  });
  const node = row(
    header({ class: "name" }, circuit.name),
    cell("State", {}, state, mixed), failures, calls, failed, slow, trial, held,
    cell("By hand", { class: "actions" }, el("span", { class: "group" }, ...buttons)),
  );
  let before = circuit.state;
  return [node, (now) => {
    const [mark, text] = STATES[now.state] ?? ["?", now.state];
    attribute(state, "data-state", now.state);
    put(glyph, mark);
    put(word, text);
    const kinds = Object.entries(now.states);
    put(mixed, kinds.length > 1 ? kinds.map(([kind, many]) => `${many} ${STATES[kind]?.[1] ?? kind}`).join(", ") : "");
    put(failures, count(now.failure_count));
    attribute(failures, "title", now.last_failure_ms ? `last failure ${ago(now.last_failure_ms)}` : "no failure yet");
    put(calls, count(now.window_calls));
    put(failed, now.window_calls ? percent(now.window_failure_rate) : "–");
    put(slow, now.window_calls ? percent(now.window_slow_rate) : "–");
    put(trial, now.retry_at_ms ? (now.retry_at_ms > nowMs() ? `in ${span(now.retry_at_ms - nowMs())}` : "with the next call")
      : now.trials_in_flight ? `${now.trials_in_flight} under way` : "–");
    put(held, now.held ? `${now.held.actor}, ${clock(Date.parse(now.held.at))}: ${now.held.reason}`
      : "–");
    if (now.held && now.held.action === "reset") put(held, "–");
    if (before !== now.state) say(`Circuit ${now.name} is ${text}`);
    before = now.state;
  }];
};

const makeOrder = (made) => {
  const when = el("time", { datetime: made.at });
  const item = el(
    "li", {}, when, el("span", { class: "what" }, `${ACTIONS[made.action]?.label ?? made.action} `, el("b", {}, made.counterparty)),
    el("span", { class: "who" }, made.actor), el("q", {}, made.reason),
  );
  return [item, () => put(when, clock(Date.parse(made.at)))];
};

export const showCircuits = (circuits, orders) => {
  keyed(byId("circuit-rows"), circuits, (circuit) => circuit.name, makeRow);
  keyed(byId("order-rows"), orders, (made) => String(made.generation), makeOrder);
  show(byId("no-orders"), orders.length === 0);
};
