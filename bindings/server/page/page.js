// The page: a chat with the base model whose answers are checked by adapters.

import { ApiError, chat, checks, models } from "./page.api.js";
import { announce, byId } from "./page.dom.js";
import { loadAdapters, picked } from "./page.picker.js";
import { announceResults } from "./page.results.js";
import { messages, save, state } from "./page.state.js";
import { hideTip, tipScrolled } from "./page.tokens.js";
import { turnView } from "./page.turn.js";

const THEMES = ["auto", "light", "dark"];
const NEAR = 80; // pixels from the end within which the log follows what is written

const log = byId("log");
const draft = byId("draft");
const views = new WeakMap();
let running = null; // the AbortController of what is under way
let base = null;

const actions = { retry: (turn) => run(() => answer(turn)), check: (turn) => run((signal) => ask(turn, signal)) };

async function baseModel(signal) {
  base ??= (await models(signal)).find((model) => model.parent === null)?.id;
  if (!base) throw new ApiError("The server lists no base model to chat with.");
  byId("model").textContent = base;
  return base;
}

/** Do one thing at a time; Stop ends it. */
async function run(work) {
  if (running) return announce("Something is under way; Escape stops it.");
  running = new AbortController();
  const { signal } = running;
  setBusy(true);
  try {
    await work(signal);
  } finally {
    running = null;
    setBusy(false);
    save();
  }
}

function setBusy(busy) {
  if (document.activeElement === byId(busy ? "send" : "stop")) draft.focus(); // rather than nowhere
  byId("stop").hidden = !busy;
  byId("send").hidden = busy;
}

async function send() {
  const user = draft.value.trim();
  if (!user || running) return;
  const turn = { user, answer: "", status: "running", error: null, facts: null, checks: null };
  state.turns.push(turn);
  draft.value = state.draft = "";
  show(turn);
  scrollToEnd();
  await run(() => answer(turn));
}

/** Stream the answer of a turn, then ask the picked checks about it. */
async function answer(turn) {
  const { signal } = running;
  const view = views.get(turn);
  Object.assign(turn, { answer: "", status: "running", error: null, facts: null, checks: null });
  view.showChecks();
  view.showAnswer();
  announce("The model is answering.");
  try {
    await stream(turn, view, signal);
    announce(`The answer is complete. ${turn.answer}`);
  } catch (error) {
    base = null; // perhaps another model is served by now
    turn.status = error.name === "AbortError" ? "stopped" : "failed";
    if (turn.status === "failed") turn.error = plain(error);
    else announce("Stopped.");
  }
  const follow = atEnd();
  view.showAnswer();
  if (follow) scrollToEnd();
  save();
  const complete = turn.status === "done" || turn.status === "length";
  if (complete && turn.answer && picked().length) await ask(turn, signal);
}

async function stream(turn, view, signal) {
  const began = performance.now();
  let first = null;
  let usage = null;
  let reason = null;
  const body = {
    ...settings(),
    model: await baseModel(signal),
    messages: asked(turn),
    stream_options: { include_usage: true },
  };
  for await (const chunk of chat(body, signal)) {
    usage = chunk.usage ?? usage;
    const [choice] = chunk.choices;
    reason = choice?.finish_reason ?? reason;
    if (!choice?.delta.content) continue;
    first ??= performance.now() - began;
    turn.answer += choice.delta.content;
    const follow = atEnd();
    view.grow(() => follow && scrollToEnd());
  }
  const totalMs = performance.now() - began;
  turn.facts = { firstMs: first ?? totalMs, totalMs, usage };
  turn.status = reason === "length" ? "length" : "done";
}

const asked = (turn) => [...messages(state.turns.indexOf(turn)), { role: "user", content: turn.user }];

function settings() {
  const chosen = {};
  if (state.temperature !== null) chosen.temperature = state.temperature;
  if (state.maxTokens !== null) chosen.max_tokens = state.maxTokens;
  return chosen;
}

/** Ask the picked checks about the answer of a turn. */
async function ask(turn, signal) {
  const requests = picked();
  const chatSoFar = messages(state.turns.indexOf(turn) + 1);
  turn.checks = { status: "running", results: [], error: null };
  try {
    if (!requests.length) throw new ApiError("No check is picked: tick an adapter under Checks.");
    for (const request of requests) {
      refresh(turn);
      const answered = await checks({ messages: chatSoFar, checks: request, tokens: true }, signal);
      turn.checks.results.push(...answered.checks.map((check, at) => kept(check, request[at])));
    }
    announceResults(turn.checks.results);
  } catch (error) {
    if (error.name !== "AbortError") turn.checks.error = plain(error);
  }
  turn.checks.status = "done";
  refresh(turn);
}

/** A result as it is shown and stored. */
function kept({ tokens, ...check }, { requirement }) {
  const compact = tokens ? { ids: tokens.map(({ id }) => id), texts: tokens.map(({ text }) => text) } : null;
  return { ...check, requirement, tokens: compact };
}

/** An error as it is stored. When to try again is out of date after a reload, so it is not. */
function plain(error) {
  const kept = { message: error.message };
  return Object.defineProperty(kept, "retryAfter", { value: error.retryAfter });
}

/** Show the checks of a turn; where the end of the log was in sight, from their beginning. */
function refresh(turn) {
  const { checks: section, showChecks } = views.get(turn);
  const follow = atEnd();
  showChecks();
  if (follow) section.scrollIntoView({ block: section.offsetHeight < log.clientHeight ? "end" : "start" });
}

function show(turn) {
  const view = turnView(turn, actions);
  views.set(turn, view);
  log.append(view.node);
  byId("welcome").hidden = true;
}

const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
const scrollToEnd = () => log.scrollTo({ top: log.scrollHeight });

function stop() {
  running?.abort();
}

function newChat() {
  stop();
  for (const node of log.querySelectorAll(".turn")) node.remove();
  state.turns = [];
  save();
  byId("welcome").hidden = false;
  announce("New chat.");
  draft.focus();
}

function setTheme(theme) {
  state.theme = THEMES.includes(theme) ? theme : "auto";
  document.documentElement.dataset.theme = state.theme;
  byId("theme-name").textContent = state.theme;
  byId("theme").ariaLabel = `Theme: ${state.theme}`;
}

function togglePanel(open) {
  byId("panel").classList.toggle("open", open);
  byId("panel-toggle").ariaExpanded = String(byId("panel").classList.contains("open"));
}

function onKey(event) {
  if (event.key !== "Escape" || byId("key-dialog").open) return;
  hideTip();
  if (running) stop();
  else if (byId("panel").classList.contains("open")) {
    togglePanel(false);
    byId("panel-toggle").focus();
  }
}

function wire() {
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  draft.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  draft.addEventListener("input", () => {
    state.draft = draft.value;
  });
  byId("stop").addEventListener("click", stop);
  byId("new-chat").addEventListener("click", newChat);
  byId("reload-adapters").addEventListener("click", loadAdapters);
  byId("panel-toggle").addEventListener("click", () => togglePanel());
  byId("theme").addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length]);
    save();
  });
  for (const [id, name] of [
    ["temperature", "temperature"],
    ["max-tokens", "maxTokens"],
  ]) {
    const input = byId(id);
    input.value = state[name] ?? "";
    input.addEventListener("change", () => {
      if (input.checkValidity()) state[name] = input.value === "" ? null : input.valueAsNumber;
      else input.reportValidity();
      save();
    });
  }
  document.addEventListener("keydown", onKey);
  document.addEventListener("scroll", tipScrolled, { passive: true, capture: true });
  window.addEventListener("pagehide", save);
}

setTheme(state.theme);
wire();
draft.value = state.draft;
state.turns.forEach(show);
scrollToEnd();
loadAdapters();
baseModel().catch(() => {}); // the first message asks again, and says what is wrong
