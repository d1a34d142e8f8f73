// One turn: what was asked, the answer, and what its checks came to.

import { announce, button, make, milliseconds, number, problem } from "./page.dom.js";
import { results } from "./page.results.js";

const ENDINGS = { stopped: "Stopped.", length: "Cut at the limit of tokens; raise it in the settings." };

/** The turn as an article, and how to bring parts of it up to date. `actions`: retry(turn), check(turn). */
export function turnView(turn, actions) {
  const text = document.createTextNode(turn.answer);
  const answer = make("div", { className: "text" }, text);
  const note = make("p", { className: "note" });
  const tools = make("div", { className: "tools" });
  const trouble = make("div", { className: "trouble" });
  const checks = make("section", { className: "checks", ariaLabel: "Checks of this answer" });
  const node = make(
    "article",
    { className: "turn" },
    make(
      "div",
      { className: "said" },
      make("h3", { className: "unseen", textContent: "You" }),
      make("div", { className: "text", textContent: turn.user }),
    ),
    make(
      "div",
      { className: "answer" },
      make("h3", { className: "unseen", textContent: "Model" }),
      answer,
      note,
      tools,
    ),
    trouble,
    checks,
  );
  const view = { node, checks, grow: growing(turn, text), showAnswer, showChecks };
  showAnswer();
  showChecks();
  return view;

  function showAnswer() {
    const running = turn.status === "running";
    node.ariaBusy = String(running);
    node.classList.toggle("running", running);
    if (text.data !== turn.answer) text.data = turn.answer;
    note.textContent = [ENDINGS[turn.status], factsOf(turn.facts)].filter(Boolean).join(" ");
    const again = button("Ask the checks", () => actions.check(turn));
    const usable = !running && turn.answer;
    tools.replaceChildren(...(usable ? [button("Copy", () => copy(answer)), again] : []));
    trouble.replaceChildren(...(turn.error ? [problem(turn.error, () => actions.retry(turn))] : []));
  }

  function showChecks() {
    const { status, results: found, error } = turn.checks ?? {};
    checks.ariaBusy = String(status === "running");
    checks.replaceChildren(...(found ? results(found) : []));
    if (status === "running") checks.append(make("p", { className: "muted", textContent: "Checking …" }));
    if (error) checks.append(problem(error, () => actions.check(turn)));
  }
}

/** Text that arrives within one frame is laid out once. */
function growing(turn, text) {
  let waiting = false;
  return (then) => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      text.appendData(turn.answer.slice(text.length));
      then();
    });
  };
}

function factsOf(facts) {
  if (!facts) return "";
  const parts = [`first token after ${milliseconds(facts.firstMs)}`, `${milliseconds(facts.totalMs)} in all`];
  if (facts.usage) {
    const { prompt_tokens: all, completion_tokens: made, prompt_tokens_details: details } = facts.usage;
    parts.unshift(`${number(made)} ${made === 1 ? "token" : "tokens"}`);
    parts.push(`${number(details?.cached_tokens ?? 0)} of ${number(all)} prompt tokens reused`);
  }
  return parts.join(" · ");
}

async function copy(answer) {
  try {
    await navigator.clipboard.writeText(answer.textContent);
    announce("Copied.");
  } catch {
    getSelection().selectAllChildren(answer); // no clipboard where the page came over plain HTTP from another machine
    announce("The answer is selected; copy it with Ctrl+C.");
  }
}
