// What the page asks the server for. One name per loaded page: two tabs are two clients.

const client = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");
const headers = { "X-Holdfast-Client": client };

export class Refused extends Error {}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is holdfast explore still running?");
  }
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(content.error ?? `The server answers with ${response.status}.`);
  return content;
}

const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value !== null));

export const scene = () => ask("api/scene");
export const images = (search, page) => ask(`api/images?${query({ search, page })}`);
export const found = (key, label, signal) => ask(`api/queries/${key}?${query({ label })}`, { signal });
export const upload = (file) => ask("api/uploads", { method: "POST", body: file });
export const attack = (settings) => ask("api/attacks", { method: "POST", body: JSON.stringify(settings) });
export const job = (id) => ask(`api/jobs/${id}`);
export const cancel = (id) => ask(`api/jobs/${id}/cancel`, { method: "POST" });
export const leave = () => void fetch("api/leave", { method: "POST", headers, keepalive: true }).catch(() => {});
