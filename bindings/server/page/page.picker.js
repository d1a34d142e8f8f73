// The adapters to pick as checks, each with a requirement in words if one is wanted.

import { adapters } from "./page.api.js";
import { byId, make, number, problem } from "./page.dom.js";
import { save, state } from "./page.state.js";
import { kindName, pairs } from "./page.tasks.js";

const SOON = 2; // seconds, where a server that is loading does not say when
let known = [];
let later = null; // the timer of the next try

/**
 * What to ask about an answer, as POST /v1/checks takes it: the picked aLoRAs in one request, the LoRAs in another.
 * Checks that are asked together share their steps, and so their time: an aLoRA beside a LoRA that reads everything
 * would seem to take as long.
 */
export function picked() {
  const asked = pairs(known).flatMap(({ members }) => members.filter(({ name }) => state.picked[name]?.on));
  return ["alora", "lora"]
    .map((kind) => asked.filter((adapter) => adapter.kind === kind).map(({ name }) => check(name)))
    .filter((request) => request.length);
}

const check = (name) => ({ adapter: name, requirement: state.picked[name].requirement.trim() || null });

export async function loadAdapters() {
  clearTimeout(later);
  const list = byId("adapters");
  try {
    known = await adapters();
  } catch (error) {
    list.replaceChildren(problem(error, loadAdapters));
    if (error.status === 503) later = setTimeout(loadAdapters, 1000 * (error.retryAfter ?? SOON));
    return;
  }
  const empty = make("p", {
    className: "muted",
    textContent: "No adapter is loaded. The server loads them; see its help.",
  });
  list.replaceChildren(...(known.length ? pairs(known).map(choices) : [empty]));
  countPicked();
}

function choices({ title, members }) {
  const group = make("fieldset", { className: members.length > 1 ? "task pair" : "task" });
  group.append(make("legend", { textContent: title }));
  const labels = members[0].labels ?? [];
  if (labels.length) group.append(make("p", { className: "labels", textContent: labels.join(" · ") }));
  const rows = members.map((adapter) => choice(adapter));
  rows.forEach((row, at) => {
    row.box.onchange = () => pick(row, members[at].name, state.picked[members[1 - at]?.name]);
    row.input.oninput = () => {
      state.picked[members[at].name].requirement = row.input.value;
      save();
    };
  });
  group.append(make("div", { className: "choices" }, ...rows.map((row) => row.node)));
  return group;
}

function choice({ name, kind, rank }) {
  const chosen = (state.picked[name] ??= { on: false, requirement: "" });
  const box = make("input", { type: "checkbox", checked: chosen.on });
  const input = make("input", {
    type: "text",
    value: chosen.requirement,
    placeholder: "Requirement",
    ariaLabel: `Requirement for ${name}, optional`,
    hidden: !chosen.on,
    autocomplete: "off",
  });
  const about = make("span", { className: "about", textContent: `${kindName(kind)}, rank ${number(rank)}` });
  const label = make("label", {}, box, make("span", {}, make("span", { className: "name", textContent: name }), about));
  return { node: make("div", { className: "choice" }, label, input), box, input };
}

/** A check that joins the other kind of its task begins with the same requirement. */
function pick({ box, input }, name, sibling) {
  const chosen = state.picked[name];
  chosen.on = box.checked;
  if (chosen.on && !chosen.requirement && sibling?.on) chosen.requirement = sibling.requirement;
  input.value = chosen.requirement;
  input.hidden = !chosen.on;
  save();
  countPicked();
}

function countPicked() {
  const count = picked().flat().length;
  byId("picked-count").textContent = count ? String(count) : "";
}
