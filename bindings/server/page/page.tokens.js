// The token strip: every token of a check's prompt, and who computed it.
//
// Token i is reused if i < cached, else computed by the adapter if i >= activation, else by the base model.

import { byId, make, number } from "./page.dom.js";

export const OWNERS = ["reused", "base", "adapter"];
const WORDS = { reused: "reused", base: "computed by the base model", adapter: "computed by the adapter" };
const LONG = 64; // a run of one owner that is longer is folded
const ENDS = 20; // what is left of it at either end
const CHUNK = 256; // tokens laid out together, so that those out of sight cost nothing
const BIG_STEP = 10;

export function ownerOf(index, check) {
  if (index < check.usage.cached_tokens) return "reused";
  return check.activation !== null && index >= check.activation ? "adapter" : "base";
}

/** How many tokens of the prompt each owner has. */
export function counts(check) {
  const { prompt_tokens: all, cached_tokens: cached } = check.usage;
  const adapter = check.activation === null ? 0 : Math.max(0, all - Math.max(cached, check.activation));
  return { reused: Math.min(cached, all), base: all - Math.min(cached, all) - adapter, adapter };
}

/** Legend with counts. Pattern and underline tell the owners apart without colour. */
export function legend(check) {
  const of = counts(check);
  const entries = OWNERS.map((owner) =>
    make(
      "li",
      {},
      make("span", { className: `token ${owner}`, textContent: " a ", ariaHidden: "true" }),
      ` ${number(of[owner])} ${WORDS[owner]}`,
    ),
  );
  return make("ul", { className: "legend", ariaLabel: "Tokens of the prompt" }, ...entries);
}

/** The prompt's tokens in order, one tab stop; arrows, Home and End move, Enter opens a fold. */
export function strip(check) {
  const of = counts(check);
  const label = OWNERS.map((owner) => `${of[owner]} ${WORDS[owner]}`).join(", ");
  const list = make("div", { className: "strip", role: "listbox", tabIndex: 0, ariaLabel: `Prompt tokens: ${label}` });
  const show = (folded) => {
    hideTip();
    list.replaceChildren(...(folded ? foldedRuns(check) : chunks(check, 0, check.tokens.texts.length)));
  };
  const unfold = (fold) => {
    hideTip();
    const pieces = chunks(check, Number(fold.dataset.from), Number(fold.dataset.to));
    const first = pieces[0].firstChild;
    fold.replaceWith(...pieces);
    point(list, first, check);
  };
  // Not pointerover, which also comes where the pointer rests and the tokens move.
  list.addEventListener("pointermove", ({ target }) => {
    if (isToken(target) && (target !== current(list) || byId("tip").hidden)) point(list, target, check);
  });
  list.addEventListener("pointerleave", () => document.activeElement !== list && hideTip());
  list.addEventListener("click", (event) => event.target.classList.contains("fold") && unfold(event.target));
  list.addEventListener("focus", () => point(list, current(list) ?? items(list)[0], check));
  list.addEventListener("blur", hideTip);
  list.addEventListener("keydown", (event) => move(event, list, check, unfold));
  show(true);
  return { list, show, folds: list.querySelector(".fold") !== null };
}

function foldedRuns(check) {
  const nodes = [];
  const of = counts(check);
  let from = 0;
  for (const owner of OWNERS) {
    const to = from + of[owner];
    if (to - from <= LONG) {
      nodes.push(...chunks(check, from, to));
    } else {
      nodes.push(...chunks(check, from, from + ENDS), fold(from + ENDS, to - ENDS, owner));
      nodes.push(...chunks(check, to - ENDS, to));
    }
    from = to;
  }
  return nodes;
}

function fold(from, to, owner) {
  const text = `… ${number(to - from)} more ${WORDS[owner]} …`;
  const node = make("span", { className: `fold ${owner}`, role: "option", ariaSelected: "false", textContent: text });
  Object.assign(node.dataset, { from, to });
  return node;
}

function chunks(check, from, to) {
  const made = [];
  for (let start = from; start < to; start += CHUNK) {
    const end = Math.min(to, start + CHUNK);
    const chunk = make("span", { className: end - start === CHUNK ? "chunk whole" : "chunk", role: "presentation" });
    for (let index = start; index < end; index += 1) chunk.append(token(index, check));
    made.push(chunk);
  }
  return made;
}

function token(index, check) {
  const node = document.createElement("span");
  node.className = `token ${ownerOf(index, check)}`;
  node.dataset.index = index;
  node.role = "option";
  node.textContent = visible(check.tokens.texts[index]);
  return node;
}

/** A token's text with line breaks and tabs to be seen; a token that is a part of a character has none. */
const visible = (text) => text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll("\r", "␍") || "·";

const isToken = (node) => node.classList.contains("token");
const items = (list) => list.querySelectorAll("[role=option]");
const current = (list) => list.querySelector("[aria-selected=true]");

function move(event, list, check, unfold) {
  const all = [...items(list)];
  const at = Math.max(0, all.indexOf(current(list)));
  if (event.key === "Enter" || event.key === " ") {
    if (all[at].classList.contains("fold")) unfold(all[at]);
    else return;
  } else {
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: BIG_STEP, ArrowUp: -BIG_STEP };
    const targets = { Home: 0, End: all.length - 1 };
    const target = targets[event.key] ?? at + (steps[event.key] ?? NaN);
    if (Number.isNaN(target)) return;
    point(list, all[Math.min(all.length - 1, Math.max(0, target))], check);
  }
  event.preventDefault();
}

/** Make a token (or fold) the current one: outlined, named to screen readers, and shown in the tip. */
function point(list, node, check) {
  const before = current(list);
  before?.removeAttribute("aria-selected");
  before?.removeAttribute("id");
  node.ariaSelected = "true";
  node.id = `token-${(ids += 1)}`;
  list.setAttribute("aria-activedescendant", node.id);
  if (!isToken(node)) {
    hideTip();
  } else {
    const index = Number(node.dataset.index);
    const text = JSON.stringify(check.tokens.texts[index]);
    node.ariaLabel = `${text}, token ${index}, ${WORDS[ownerOf(index, check)]}`;
    showTip(
      node,
      text,
      `token ${number(index)} of ${number(check.tokens.texts.length)}, id ${check.tokens.ids[index]}`,
      WORDS[ownerOf(index, check)],
    );
  }
  if (document.activeElement === list) node.scrollIntoView({ block: "nearest" });
}

let ids = 0;

function showTip(node, ...lines) {
  const tip = byId("tip");
  tip.replaceChildren(...lines.map((textContent) => make("span", { textContent })));
  tip.hidden = false;
  placeTip(tip, node);
}

function placeTip(tip, node) {
  const place = node.getClientRects()[0];
  const { width, height } = tip.getBoundingClientRect();
  const above = place.top - height - 6;
  tip.style.left = `${Math.max(6, Math.min(place.left, innerWidth - width - 6))}px`;
  tip.style.top = `${above > 6 ? above : place.bottom + 6}px`;
}

/** Where something scrolled: the tip of a token chosen by key goes with it, the pointer's is out of place. */
export function tipScrolled() {
  const tip = byId("tip");
  const chosen = document.activeElement.matches("[role=listbox]") && current(document.activeElement);
  if (chosen && !tip.hidden) placeTip(tip, chosen);
  else tip.hidden = true;
}

export function hideTip() {
  byId("tip").hidden = true;
}
