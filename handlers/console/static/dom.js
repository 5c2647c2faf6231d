// The few things that this page does with the document. Data only ever becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

const filled = (node, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children);
  return node;
};

export const el = (name, attributes = {}, ...children) => filled(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, name), attributes, children);

// Only what has changed is touched: a selection or a screen reader's place in the page survives the second.
export const put = (node, text) => {
  if (node.textContent !== text) node.textContent = text;
};

export const attribute = (node, name, value) => {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
};

export const show = (node, visible) => {
  if (node.hidden === visible) node.hidden = !visible;
};

// One child per item, found again by its key. `make` gives a node and a function that brings it up to date.
const updates = new WeakMap();

export const keyed = (parent, items, keyOf, make) => {
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  const old = new Map(Array.from(parent.children, (child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let child = old.get(key);
    if (child === undefined) {
      const [node, update] = make(item);
      child = node;
      child.dataset.key = key;
      updates.set(child, update);
    }
    old.delete(key);
    updates.get(child)(item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of old.values()) child.remove();
  // A row that has moved has lost the focus on its way.
  if (focused !== null && focused !== document.activeElement && parent.contains(focused)) focused.focus();
};

// The roles are written out: in a narrow window the rows are no table any more for a browser, but still for a reader.
export const row = (...cells) => el("tr", { role: "row" }, ...cells);

export const header = (attributes, ...children) => el("th", { role: "rowheader", scope: "row", ...attributes }, ...children);

export const cell = (label, attributes = {}, ...children) =>
  el("td", { role: "cell", "data-label": label, ...attributes }, ...children);

let saying = 0;

export const say = (text) => {
  const region = byId("said");
  region.textContent = "";
  clearTimeout(saying);
  saying = setTimeout(() => { region.textContent = text; }, 50);
};
