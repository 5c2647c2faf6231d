// Payments: those that changed last, those that are searched for, and the life of one.

import { payment as fetchPayment, search } from "./api.js";
import { attribute, byId, cell, el, header, keyed, put, row, say, show } from "./dom.js";
import { clock, exactly, local, method, words } from "./format.js";

const TOLD_AFTER_MS = 2000;
const GLYPHS = {
  completed: "●", failed: "✕", cancelled: "⊘", processing: "◌", pending: "◌", authorized: "◐", refunded: "↩",
  partially_refunded: "↩", approved: "●", rejected: "✕", unknown: "?", sending: "◌", not_sent: "◌", waiting: "◌",
  late: "!", reversed: "↩",
};
const PLACEHOLDERS = { payment: "pay-…", order: "order id", user: "user id", key: "idempotency key" };

let found = null;
let recents = [];
let opened = null;

const badge = () => {
  const glyph = el("span", { class: "glyph", "aria-hidden": "true" });
  const word = el("span", {});
  const node = el("span", { class: "state" }, glyph, word);
  return [node, (state) => {
    attribute(node, "data-state", state);
    put(glyph, GLYPHS[state] ?? "·");
    put(word, words(state));
  }];
};

const makeRow = (first) => {
  const when = el("time", {});
  const id = el("button", { type: "button", class: "id", title: first.id }, el("span", { class: "long" }, first.id));
  id.addEventListener("click", () => open(first.id));
  const [status, setStatus] = badge();
  const unknown = el("span", { class: "minor" });
  const amount = cell("Amount", { class: "number" });
  const attempts = cell("Attempts", { class: "number" });
  const node = row(
    cell("Changed", { class: "time" }, when), header({}, id),
    cell("Order", { class: "clip", title: first.order ?? "" }, first.order || "–"),
    cell("User", { class: "clip", title: first.user ?? "" }, first.user || "–"),
    cell("Method", {}, method(first)), amount, cell("Status", {}, status, unknown), attempts,
  );
  return [node, (line) => {
    put(when, clock(line.changed_ms));
    attribute(when, "datetime", new Date(line.changed_ms).toISOString());
    setStatus(line.status);
    put(unknown, line.outcome === "unknown" ? "outcome unknown" : line.failure ?? "");
    put(amount, `${line.amount} ${line.currency}`);
    put(attempts, String(line.attempts ?? 0));
  }];
};

const draw = () => {
  const lines = found ?? recents;
  keyed(byId("payment-rows"), lines, (line) => line.id, makeRow);
  show(byId("no-payments"), lines.length === 0);
  put(byId("no-payments"), found === null
    ? "Nothing yet. Payments show here as soon as a worker has touched them." : "Nothing found.");
  put(byId("payments-title"), found === null ? "Recent payments" : "Found payments");
  show(byId("all"), found !== null);
};

const fact = (name, value) => [el("dt", {}, name), el("dd", {}, value)];

const moment = (each) => {
  const [state, setState] = badge();
  setState(each.state);
  const facts = Object.entries(each.facts).flatMap(([name, value]) => fact(words(name), local(value)));
  return el(
    "li", { class: each.kind },
    el("p", { class: "when" }, el("time", { datetime: each.at }, exactly(each.at)), el("span", { class: "kind" }, each.kind)),
    el("p", { class: "title" }, el("b", {}, words(each.title)), " ", ...(each.state ? [state] : [])),
    el("dl", { class: "facts" }, ...facts),
  );
};

const fill = (page) => {
  const { line, payment } = page;
  const decimals = (line.amount.split(".")[1] ?? "").length;
  const [status, setStatus] = badge();
  setStatus(line.status);
  byId("payment-facts").replaceChildren(
    ...fact("Amount", `${line.amount} ${line.currency}`), ...fact("Status", status), ...fact("Outcome", line.outcome),
    ...fact("Method", method(line)), ...fact("Order", line.order || "–"), ...fact("User", line.user),
    ...fact("Surface", line.surface), ...(line.number ? fact("Number", String(line.number)) : []),
    ...(payment.transactionId ? fact("Transaction", payment.transactionId) : []),
    ...(payment.failureReason ? fact("Failure", `${payment.failureCode}: ${payment.failureReason}`) : []),
    ...(payment.refundedAmount === undefined ? [] : fact("Refunded", `${payment.refundedAmount.toFixed(decimals)} ${line.currency}`)),
    ...fact("Created", local(line.created)),
  );
  byId("timeline").replaceChildren(...page.timeline.map(moment));
};

export const open = async (id) => {
  opened = { id, version: 0, moments: 0 };
  byId("payment-title").textContent = id;
  byId("payment-error").textContent = "";
  byId("payment-facts").replaceChildren();
  byId("timeline").replaceChildren();
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  if (!byId("payment").open) byId("payment").showModal();
  await refresh();
};

const refresh = async () => {
  const { id } = opened;
  try {
    const page = await fetchPayment(id);
    const moments = page.timeline.length;
    if (opened?.id !== id || (opened.version === page.line.version && opened.moments === moments)) return;
    opened = { id, version: page.line.version, moments };
    fill(page);
    // People are told a moment later, and that is no change of the payment.
    setTimeout(() => opened?.id === id && refresh(), TOLD_AFTER_MS);
  } catch (refused) {
    if (opened?.id === id) byId("payment-error").textContent = refused.message;
  }
};

export const openFromAddress = () => {
  let id = "";
  try {
    id = decodeURIComponent(location.hash.slice(1));
  } catch {
    // Somebody's link; the page is not broken by it.
  }
  if (id.startsWith("pay-")) open(id);
};

export const listenToSearch = () => {
  const by = byId("by");
  by.addEventListener("change", () => {
    byId("q").placeholder = PLACEHOLDERS[by.value];
    show(byId("subject-field"), by.value === "key");
    byId("subject").required = by.value === "key";
  });
  byId("search").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      found = (await search(by.value, byId("q").value.trim(), byId("subject").value.trim())).payments;
      say(`${found.length} found`);
    } catch (refused) {
      found = [];
      say(refused.message);
    }
    draw();
  });
  byId("all").addEventListener("click", () => { found = null; draw(); byId("q").focus(); });
  byId("payment-close").addEventListener("click", () => byId("payment").close());
  byId("payment").addEventListener("close", () => {
    opened = null;
    history.replaceState(null, "", location.pathname);
  });
  addEventListener("hashchange", openFromAddress);
};

export const showPayments = (lines) => {
  recents = lines;
  draw();
  const news = opened && lines.find((line) => line.id === opened.id);
  if (news && news.version !== opened.version) refresh();
};
