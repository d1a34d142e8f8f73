// The server's API: requests with the key, errors as it words them, streams of server-sent events.

import { askForKey, key } from "./page.key.js";

const CUT = "The connection ended before the answer was complete.";

export class ApiError extends Error {
  /** `retryAfter`: seconds, or null. */
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

const list = async (path, signal) => (await (await send(path, { signal })).json()).data;

export const models = (signal) => list("/v1/models", signal);
export const adapters = (signal) => list("/v1/adapters", signal);
export const checks = async (body, signal) => (await send("/v1/checks", { body, signal })).json();

/** The chunks of a streamed chat completion. Raises ApiError, also where the stream breaks off. */
export async function* chat(body, signal) {
  const response = await send("/v1/chat/completions", { body: { ...body, stream: true }, signal });
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message);
      yield chunk;
    }
  } catch (error) {
    throw error instanceof ApiError || error.name === "AbortError" ? error : new ApiError(CUT);
  }
  throw new ApiError(CUT);
}

async function send(path, { body, signal }) {
  const headers = { Accept: "application/json" };
  if (key()) headers.Authorization = `Bearer ${key()}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
  if (response.ok) return response;
  const error = await failure(response);
  if (error.status === 401 && (await askForKey(error.message))) return send(path, { body, signal });
  throw error;
}

async function failure(response) {
  let message = `The server answered ${response.status} ${response.statusText}`.trim();
  try {
    message = (await response.json()).error.message;
  } catch {
    // not the server's own answer: a proxy's, for instance
  }
  return new ApiError(message, response.status, seconds(response.headers.get("Retry-After")));
}

function seconds(header) {
  if (!header) return null;
  const value = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(value) && value > 0 ? Math.ceil(value) : null;
}

/** The data of each server-sent event. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/); // a last \r may be the first half of \r\n
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already
  }
}
