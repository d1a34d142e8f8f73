// What the checks of one answer came to: a card for each, and before a LoRA and an aLoRA of one task their comparison.

import { announce, bar, button, make, milliseconds, number } from "./page.dom.js";
import { kindName, pairs } from "./page.tasks.js";
import { OWNERS, counts, legend, strip } from "./page.tokens.js";

const SHOWN = 3; // probabilities; the rest is folded
const VERDICTS = new Map([
  [true, { word: "passes", sign: "✓", className: "passes" }],
  [false, { word: "fails", sign: "✗", className: "fails" }],
  [null, { word: "no verdict", sign: "○", className: "none" }],
]);

export function results(checks) {
  const tasks = pairs(checks);
  const nodes = [];
  for (const task of tasks) {
    const [first, second] = task.members;
    if (second && first.kind !== second.kind) nodes.push(comparison(task));
    nodes.push(make("div", { className: "cards" }, ...task.members.map(card)));
  }
  return nodes;
}

/** The results in one sentence each, for screen readers. */
export function announceResults(checks) {
  announce(
    checks.map((check) => `${check.name}: ${answerOf(check)}, ${verdictOf(check).word}.`).join(" "),
    "check-status",
  );
}

const verdictOf = (check) => VERDICTS.get(check.passed);
const answerOf = (check) => check.label ?? check.answer;
const computed = (check) => check.usage.prompt_tokens - check.usage.cached_tokens;

function comparison({ title, members }) {
  const alora = members.find((check) => check.kind === "alora");
  const lora = members.find((check) => check.kind === "lora");
  const tokens = Math.max(computed(alora), computed(lora));
  const time = Math.max(alora.timing.total_ms, lora.timing.total_ms);
  const rows = [alora, lora].map((check) =>
    make(
      "tr",
      {},
      make("th", { scope: "row", textContent: kindName(check.kind) }),
      make("td", {}, measure(computed(check) / tokens, check.kind, number(computed(check)))),
      make("td", {}, measure(check.timing.total_ms / time, check.kind, milliseconds(check.timing.total_ms))),
    ),
  );
  const head = make(
    "tr",
    {},
    make("td", {}),
    ...["Tokens computed", "Time"].map((textContent) => make("th", { scope: "col", textContent })),
  );
  return make(
    "table",
    { className: "comparison" },
    make("caption", {}, make("strong", { textContent: title }), ` ${inWords(alora, lora)}`),
    make("thead", {}, head),
    make("tbody", {}, ...rows),
  );
}

const measure = (share, kind, text) =>
  make("span", { className: "measure" }, bar(share, kind), make("span", { className: "figure", textContent: text }));

/** The two ratios, whichever way they go. */
function inWords(alora, lora) {
  const ratio = (a, b) => (Math.max(a, b) / Math.min(a, b)).toPrecision(2).replace(/\.0$/, "");
  const [few, many] = [computed(alora), computed(lora)];
  const [quick, slow] = [alora.timing.total_ms, lora.timing.total_ms];
  const tokens =
    few === many
      ? "computed as many tokens as the LoRA"
      : `computed ${ratio(few, many)} times ${few < many ? "fewer" : "more"} tokens than the LoRA`;
  return `The aLoRA ${tokens} and took ${ratio(quick, slow)} times ${quick < slow ? "less" : "more"} time.`;
}

function card(check) {
  const verdict = verdictOf(check);
  const { prompt_tokens: all, cached_tokens: cached } = check.usage;
  const node = make(
    "section",
    { className: `card ${check.kind}`, ariaLabel: `Check ${check.name}` },
    make(
      "header",
      {},
      make("h4", { textContent: check.name }),
      make("span", { className: "kind", textContent: kindName(check.kind) }),
      make("span", { className: `verdict ${verdict.className}`, textContent: `${verdict.sign} ${verdict.word}` }),
    ),
    make("p", { className: "label", textContent: answerOf(check) }),
  );
  if (check.requirement) node.append(make("p", { className: "requirement", textContent: check.requirement }));
  node.append(...probabilities(check.probabilities));
  node.append(
    make(
      "p",
      { className: "facts" },
      make("span", { className: "time", textContent: milliseconds(check.timing.total_ms) }),
      make("span", { className: "reuse", textContent: `${number(cached)} of ${number(all)} tokens reused` }),
    ),
  );
  node.append(overview(check), legend(check), ...tokens(check));
  return node;
}

function probabilities(of) {
  const ranked = Object.entries(of).sort((one, other) => other[1] - one[1]);
  if (!ranked.length) return [];
  const rows = ranked.map(([label, probability]) =>
    make(
      "li",
      {},
      make("span", { className: "name", textContent: label }),
      make("span", { className: "track" }, bar(probability, "probability")),
      make("span", { className: "figure", textContent: `${(100 * probability).toFixed(1)}%` }),
    ),
  );
  const nodes = [make("ol", { className: "probabilities" }, ...rows.slice(0, SHOWN))];
  if (rows.length > SHOWN) {
    const summary = make("summary", { textContent: `${rows.length - SHOWN} more labels` });
    nodes.push(make("details", {}, summary, make("ol", { className: "probabilities" }, ...rows.slice(SHOWN))));
  }
  return nodes;
}

/** The whole prompt as one line, to scale. */
function overview(check) {
  const of = counts(check);
  const line = make("div", { className: "overview", ariaHidden: "true" });
  for (const owner of OWNERS.filter((name) => of[name])) {
    const part = make("span", { className: owner });
    part.style.flexGrow = String(of[owner]);
    line.append(part);
  }
  return line;
}

function tokens(check) {
  if (!check.tokens) return [make("p", { className: "muted", textContent: "The tokens of this check were not kept." })];
  const { list, show, folds } = strip(check);
  if (!folds) return [list];
  const all = `Show all ${number(check.tokens.texts.length)} tokens`;
  const toggle = button(all, () => {
    const open = toggle.ariaExpanded === "true";
    show(open);
    toggle.ariaExpanded = String(!open);
    toggle.textContent = open ? all : "Fold long runs";
  });
  toggle.ariaExpanded = "false";
  return [list, toggle];
}
