"""Second half of the demo: how often the adapter is right, and what one check costs."""

import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alorakit.bindings.checks.choose import labelled
from alorakit.bindings.checks.question import question
from alorakit.bindings.checks.verdict import passing_labels
from alorakit.bindings.cli.demo_training import write_file
from alorakit.bindings.session import ChatContext, EngineBackend, MelleaSession, ModelOption, req
from alorakit.engine.engine import Engine
from alorakit.engine.errors import TrainingError
from alorakit.engine.layouts import check_ids
from alorakit.engine.manifest import MANIFEST_NAME

REQUIREMENT = "The failure mode must not be 'no_failure'."
ROUNDS = 5
_ANSWER_TOKENS = 24


@dataclass(frozen=True)
class Accuracy:
    """How often the most probable label is the right one, on rows that training never saw.

    Attributes:
        rows: Held-out rows.
        chance: Share that guessing gets right.
        before: Share that the base model gets right, reading the same tokens.
        after: Share that the adapter gets right.
        verdicts_agree: Share on which the session's verdict says the same as the adapter's label.
    """

    rows: int
    chance: float
    before: float
    after: float
    verdicts_agree: float


@dataclass(frozen=True)
class CheckCost:
    """One kind of check on a chat that the base model has just answered.

    Attributes:
        kind: ``"alora"`` or ``"lora"``.
        context_tokens: Tokens that the check reads before it answers.
        reused_tokens: Those of them found in the KV cache.
        computed_tokens: Tokens that went through the model, the labels' own included.
        milliseconds: Wall time of the check.
    """

    kind: str
    context_tokens: int
    reused_tokens: int
    computed_tokens: int
    milliseconds: float


def measure_accuracy(backend: EngineBackend, adapter: str, rows: Sequence[dict[str, str]]) -> Accuracy:
    """Score held-out rows with the base model and the adapter, and ask a session about the same rows.

    Args:
        backend: Holds the adapter.
        adapter: Its name; it was trained without requirements, as the demo trains.
        rows: Held-out rows.
    """
    engine, session = backend.engine, MelleaSession(backend, ctx=ChatContext())
    info = engine.adapters[adapter]
    manifest = labelled(info)
    labels, passing = list(manifest.labels), passing_labels(manifest.labels, REQUIREMENT)
    failure_check = req(REQUIREMENT, adapter=adapter)
    before = after = agree = 0
    for row in rows:
        chat = [{"role": "user", "content": row["item"]}]
        ids = check_ids(
            engine.tokenizer, manifest.layout, chat, None, info.invocation_tokens or (), manifest.invocation
        )
        guess = max(engine.score(ids, labels), key=lambda score: score.probability).text
        asked = question(engine.tokenizer, info, chat, None, decide=False)
        label = asked.verdict(*engine.batch([asked.request])).label
        [verdict] = session.validate(failure_check, output=row["item"])
        before += guess == row["label"]
        after += label == row["label"]
        agree += verdict.as_bool() == (label in passing)
    return Accuracy(len(rows), 1 / len(labels), before / len(rows), after / len(rows), agree / len(rows))


def add_plain_lora(engine: Engine, adapter: str, folder: Path) -> str:
    """Save an aLoRA's weights as an ordinary LoRA, applied from the first token on, and add it to the engine.

    For comparing costs only: the weights were not trained for that.

    Args:
        engine: Holds the aLoRA.
        adapter: The aLoRA's name.
        folder: Where to; replaced if it is there.

    Returns:
        The name under which the engine knows it.

    Raises:
        TrainingError: The folder cannot be written.
    """
    source = engine.adapters[adapter].path
    config = json.loads((source / "adapter_config.json").read_text(encoding="utf-8"))
    config["alora_invocation_tokens"] = None
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            made = Path(name) / folder.name
            made.mkdir()
            for file in ("adapter_model.safetensors", MANIFEST_NAME):
                if (source / file).is_file():  # adapters from elsewhere have no manifest
                    shutil.copyfile(source / file, made / file)
            write_file(made / "adapter_config.json", json.dumps(config, indent=2) + "\n")
            if folder.exists():
                folder.rename(Path(name) / "old")
            made.rename(folder)
    except OSError as exc:
        raise TrainingError(f"{folder}: cannot be written ({exc.strerror}); give another folder with --out") from exc
    return engine.add_adapter(folder.name, folder).name


def measure_checks(backend: EngineBackend, alora: str, lora: str, notes: Sequence[str]) -> list[CheckCost]:
    """Let the base model answer long reports, and check each chat with an aLoRA and with a LoRA.

    Every round has a report of its own, so each check is the first one after the answer was written, and finds of an
    earlier round no more than the chat template's opening. The first round warms up and does not count.

    Args:
        backend: Holds both adapters.
        alora: Name of the aLoRA.
        lora: Name of the LoRA.
        notes: Notes for the reports; they are all in each report.

    Returns:
        Medians for the aLoRA and for the LoRA.
    """
    costs: dict[str, list[CheckCost]] = {"alora": [], "lora": []}
    for number in range(ROUNDS + 1):
        session = MelleaSession(backend, ctx=ChatContext())
        report = "\n".join(f"{at}. {note}" for at, note in enumerate(notes, start=1))
        session.chat(
            f"Week {number + 1} of the workshop. Sum up this shift log in one sentence.\n{report}",
            model_options={ModelOption.MAX_NEW_TOKENS: _ANSWER_TOKENS},
        )
        order = [("alora", alora), ("lora", lora)]
        for kind, name in order if number % 2 else reversed(order):
            cost = _timed_check(session, kind, name)
            if number:
                costs[kind].append(cost)
    return [_median(of_kind) for of_kind in costs.values()]


def _timed_check(session: MelleaSession, kind: str, name: str) -> CheckCost:
    engine = session.backend.engine
    computed = engine.stats().tokens_computed
    began = time.perf_counter()
    [verdict] = session.validate(req(REQUIREMENT, adapter=name))
    elapsed = 1e3 * (time.perf_counter() - began)
    rows, usage = engine.stats().tokens_computed - computed, verdict.usage
    assert usage is not None, "an adapter made this verdict"
    return CheckCost(kind, usage.prompt_tokens, usage.cached_tokens, rows, elapsed)


def _median(costs: Sequence[CheckCost]) -> CheckCost:
    """The check that took the median time, so that its numbers belong together."""
    return sorted(costs, key=lambda cost: cost.milliseconds)[len(costs) // 2]
