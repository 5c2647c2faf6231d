// What this page asks of its server. Whatever changes something carries a header that no other page can send.

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const ask = async (path, options = {}) => {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  } catch {
    throw new Refused(0, "The engine does not answer.");
  }
  if (response.status === 204) return null;
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Refused(response.status, body?.error?.message ?? `The engine answered ${response.status}.`);
  return body;
};

const change = (method, path, body) =>
  ask(path, {
    method,
    headers: { "X-Console": "1", ...(body === undefined ? {} : { "Content-Type": "application/json" }) },
    body: body === undefined ? undefined : JSON.stringify(body),
  });

export const session = () => ask("/console/session");
export const signIn = (token) => change("POST", "/console/session", { token });
export const signOut = () => change("DELETE", "/console/session");
export const payment = (id) => ask(`/console/payments/${encodeURIComponent(id)}`);
export const search = (by, q, subject) => ask(`/console/search?${new URLSearchParams({ by, q, subject })}`);
export const order = (name, action, actor, reason) =>
  change("POST", `/console/circuits/${encodeURIComponent(name)}/${action}`, { actor, reason });
