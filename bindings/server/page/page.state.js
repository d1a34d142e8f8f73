// What survives a reload: one JSON value in sessionStorage.

const NAME = "alorakit.page";

const FRESH = { turns: [], picked: {}, temperature: 0.7, maxTokens: 256, theme: "auto", draft: "" };

export const state = { ...FRESH, ...stored() };

function stored() {
  try {
    const value = JSON.parse(sessionStorage.getItem(NAME)) ?? {};
    for (const turn of value.turns ?? []) settle(turn);
    return value;
  } catch {
    return {}; // written by another version, or storage is off
  }
}

/** What was under way when the page was left goes on no more. */
function settle(turn) {
  if (turn.status === "running") turn.status = "stopped";
  if (turn.checks) turn.checks.status = "done";
}

/** Keep the state. Where there is too much of it, the oldest answers give up the tokens of their checks first. */
export function save() {
  const withTokens = state.turns.filter((turn) => turn.checks?.results?.some((check) => check.tokens));
  for (;;) {
    try {
      sessionStorage.setItem(NAME, JSON.stringify(state));
      return;
    } catch {
      const oldest = withTokens.shift();
      if (!oldest) return;
      for (const check of oldest.checks.results) check.tokens = null;
    }
  }
}

/** The chat up to and including a turn, as the server takes it. Turns that got no answer are no part of it. */
export function messages(upTo = state.turns.length) {
  return state.turns
    .slice(0, upTo)
    .filter((turn) => turn.answer)
    .flatMap((turn) => [
      { role: "user", content: turn.user },
      { role: "assistant", content: turn.answer },
    ]);
}
