// Which adapters do the same task, so that a LoRA and an aLoRA can be shown side by side.

const KINDS = { alora: "aLoRA", lora: "LoRA" };

export const kindName = (kind) => KINDS[kind] ?? kind;

/** What is left of a name without the words that tell the kind: "tone-alora" and "tone_lora" are both "tone". */
function stem(name) {
  return name
    .toLowerCase()
    .split(/[^\p{L}\p{N}]+/u)
    .filter((word) => word && !(word in KINDS))
    .join(" ");
}

/**
 * Group adapters, or the results of checks, by task: an aLoRA and a LoRA whose names differ in the kind alone, or else
 * the only two that have these labels. Order is kept; of a pair the aLoRA comes first.
 */
export function pairs(members) {
  const tasks = members.map((member) => ({ title: member.name, members: [member] }));
  for (const same of [sameStem, sameLabels]) {
    for (const task of [...tasks]) {
      const other = onlyMatch(task, tasks, same);
      if (!other || !tasks.includes(task) || onlyMatch(other, tasks, same) !== task) continue;
      task.members.push(...other.members);
      task.members.sort((one, two) => one.kind.localeCompare(two.kind));
      task.title = stem(task.members[0].name) || task.title;
      tasks.splice(tasks.indexOf(other), 1);
    }
  }
  return tasks;
}

function onlyMatch(task, tasks, same) {
  const [one, ...more] = task.members;
  const matching = tasks.filter(
    ({ members: [two, ...rest] }) => !more.length && !rest.length && one.kind !== two.kind && same(one, two),
  );
  return matching.length === 1 ? matching[0] : null;
}

const sameStem = (one, two) => stem(one.name) === stem(two.name);

function sameLabels(one, two) {
  const [mine, theirs] = [labels(one), labels(two)];
  return mine.length > 0 && JSON.stringify(mine) === JSON.stringify(theirs);
}

/** An adapter has a list of labels, a result their probabilities. */
const labels = (member) => [...(member.labels ?? Object.keys(member.probabilities))].sort();
