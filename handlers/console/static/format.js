// Numbers and times as people read them.

let ahead = 0;

// The server's clock is the one that counts; this one may be off.
export const setClock = (serverMs) => { ahead = serverMs - Date.now(); };

export const nowMs = () => Date.now() + ahead;

export const count = (number) => number.toLocaleString("en");

export const rate = (perSecond) => (perSecond >= 100 ? perSecond.toFixed(0) : perSecond.toFixed(1));

export const percent = (share) => `${(share * 100).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

export const span = (ms) => {
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
};

export const ago = (ms) => (ms ? `${span(nowMs() - ms)} ago` : "–");

const two = (number) => String(number).padStart(2, "0");

export const clock = (ms) => {
  const at = new Date(ms);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return nowMs() - ms < 43_200_000 ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
};

// To the millisecond: what happened first is the question.
export const exactly = (text) => {
  const at = new Date(text);
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
};

const ISO = /^\d{4}-\d\d-\d\dT[\d:.]+Z$/;

// Times from the engine are UTC; everything on the page is the reader's own time.
export const local = (text) => {
  if (!ISO.test(text)) return text;
  const at = new Date(text);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${exactly(text)}`;
};

export const words = (text) => text.replaceAll("_", " ");

export const method = (line) => [words(line.method), line.brand, line.last4 && `•••• ${line.last4}`].filter(Boolean).join(" ");
