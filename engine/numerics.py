"""Values that are not finite: whose rows they are, and the errors that say so."""

from collections.abc import Iterator
from itertools import accumulate

from torch import Tensor

from alorakit.engine.errors import AlorakitError, NumericsError
from alorakit.engine.schedule import Entry


def mark_hidden(finite: Tensor, entries: list[Entry]) -> list[slice]:
    """Give every entry with a row of hidden states that is not finite its error.

    Args:
        finite: bool [rows], on the CPU.
        entries: Whose rows they are, one entry after the other.

    Returns:
        Those entries' rows.
    """
    found = list(_not_finite(finite, entries, [entry.num_rows for entry in entries]))
    for entry, _ in found:
        name = entry.sequence.adapter_name
        who = "the base model" if name is None else f"adapter {name!r}"
        error = NumericsError(
            f"{who} computed values that are not finite (tokens {entry.start} to "
            f"{entry.start + entry.num_tokens - 1}); check its weights, or use dtype='float32'"
        )
        _fail(entry, error)
    return [rows for _, rows in found]


def mark_logits(finite: Tensor, wanted: list[Entry]) -> None:
    """Give every entry its error whose states are finite and whose logits are not: the output layer overflows.

    Args:
        finite: bool [logits rows], on the CPU.
        wanted: Whose logits they are, one entry after the other.
    """
    for entry, _ in _not_finite(finite, wanted, [len(entry.logits_rows) for entry in wanted]):
        error = NumericsError(
            f"the model's logits after token {entry.start + entry.num_tokens - 1} are not finite; check lm_head"
        )
        _fail(entry, entry.sequence.error or error)


def _fail(entry: Entry, error: AlorakitError) -> None:
    """Give an entry its error, and take back what the sampler may have reported of its prompt already."""
    entry.sequence.error = error
    del entry.sequence.prompt_logprobs[entry.start :]


def _not_finite(finite: Tensor, entries: list[Entry], sizes: list[int]) -> Iterator[tuple[Entry, slice]]:
    """The entries with a row that is not finite, and their rows; entry i has ``sizes[i]``."""
    if bool(finite.all()):
        return
    for entry, size, end in zip(entries, sizes, accumulate(sizes), strict=True):
        if not bool(finite[end - size : end].all()):
            yield entry, slice(end - size, end)
