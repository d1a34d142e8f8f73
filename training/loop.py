"""A training run from rows to an adapter folder."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from alorakit.engine.devices import pick_device
from alorakit.engine.errors import TrainingError, TrainingInterrupted
from alorakit.engine.pretrained import resolve_model
from alorakit.engine.tokenizer import Tokenizer
from alorakit.training.adapter_folder import CONFIG_NAME, STATE_NAME, outfile_folder, remove_partials, write_adapter
from alorakit.training.config import ProgressEvent, TrainConfig
from alorakit.training.data import Example
from alorakit.training.interrupt import watched
from alorakit.training.prepare import build_model, check_examples, fork_devices
from alorakit.training.report import TrainReport
from alorakit.training.result import adapter_files, report_of
from alorakit.training.run import Run
from alorakit.training.state import Identity, State

ProgressCallback = Callable[[ProgressEvent], None]


def train(
    base_model: str | Path,
    examples: Sequence[Example],
    config: TrainConfig,
    outfile: str | Path,
    progress: ProgressCallback | None = None,
    *,
    validation: Sequence[Example] | None = None,
    resume: bool = False,
) -> TrainReport:
    """Train an adapter and write its folder.

    A checkpoint is written into the folder after every epoch, each ``save_steps`` steps, and when the process is asked
    to stop (Ctrl-C, SIGTERM); it is removed when the adapter is there. Nothing outside the folder is touched.

    Args:
        base_model: Folder or Hub id.
        examples: Rows from :func:`~alorakit.training.load_examples`, made with the base model's tokenizer.
        config: Settings.
        outfile: Adapter folder to write; one that is there is replaced when training has succeeded.
        progress: Called as the run goes on.
        validation: Rows to validate on, loaded likewise; None: ``config.val_fraction`` of ``examples``.
        resume: Go on from the folder's checkpoint, as if the run had never stopped; without one, start from the first
            step; with the adapter of this very run there, return its report.

    Raises:
        TrainingInterrupted: The process was asked to stop; the message says how to go on.
        TrainingError: ``outfile`` cannot be written or holds another run's checkpoint; or the loss is not finite: the
            last checkpoint before that stays, for its weights, though resuming it ends alike.
        AlorakitError: The rows or the base model cannot be used.
    """
    started = time.perf_counter()
    notify = progress or _silent
    check_examples(examples, config, validation or ())
    with outfile_folder(outfile) as target, watched() as interrupt:
        state = _state(target, resume)
        notify(ProgressEvent("load", 0, 1, f"loading {base_model}"))
        base = resolve_model(base_model)
        with torch.random.fork_rng(devices=fork_devices(pick_device(config.device))):
            torch.manual_seed(config.seed)
            budgets = None if state is None else state.progress.budgets
            model = build_model(base, [*examples, *(validation or ())], config, budgets)
            notify(ProgressEvent("load", 1, 1, f"{base.name} on {model.decoder.device}, {model.decoder.dtype}"))
            identity = Identity.of(model.decoder, examples, validation, config)
            if state is not None:
                identity.demand(state.identity, target / STATE_NAME)
            elif resume and (target / CONFIG_NAME).exists():
                return _finished(target, identity, notify)
            tokenizer = Tokenizer.from_pretrained(base.path)
            run = Run(
                model, examples, validation, config, tokenizer.decode, notify, interrupt, target, identity, started
            )
            if state is not None:
                run.restore(state)
                notify(ProgressEvent("load", 1, 1, f"resumed at step {run.at.step} of {run.num_steps}"))
            try:
                run.train()
            except TrainingInterrupted as exc:
                raise TrainingInterrupted(f"{exc}; resume with the same arguments and --resume (resume=True)") from None
            report = report_of(run, target)
            notify(ProgressEvent("save", 0, 1, f"writing {target}"))
            write_adapter(target, adapter_files(run, base, tokenizer, report))
            notify(ProgressEvent("save", 1, 1, f"wrote {target}"))
    return report


def _state(target: Path, resume: bool) -> State | None:
    """The checkpoint to go on from, if there is one and it is wanted; leftovers of a killed process are removed."""
    remove_partials(target)
    state = State.read(target)
    if state is not None and not resume:
        raise TrainingError(
            f"{target / STATE_NAME} is the checkpoint of a run that was stopped at step {state.progress.step}; go on "
            "from it with --resume (resume=True), or delete it to start from the first step"
        )
    return state


def _finished(target: Path, identity: Identity, notify: ProgressCallback) -> TrainReport:
    """The report of a run that had ended when it was resumed."""
    report = TrainReport.load(target)
    if report is None or not report.identity:
        raise TrainingError(
            f"{target} holds an adapter and no checkpoint to resume; leave out --resume (resume=False) to replace it, "
            "or give another outfile"
        )
    identity.demand(Identity(**report.identity), target, "leave out --resume (resume=False) to replace the adapter")
    notify(ProgressEvent("save", 1, 1, f"{target} was finished already"))
    return report


def _silent(event: ProgressEvent) -> None:
    """Progress that nobody asked for."""
