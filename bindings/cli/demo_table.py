"""The demo's figures, for people."""

import sys
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alorakit.bindings.cli.demo_measure import ROUNDS, Accuracy, CheckCost

_NAMES = {"alora": "aLoRA", "lora": "ordinary LoRA"}
_COLUMNS = ("check with", "tokens in context", "tokens reused", "tokens computed", "milliseconds")


def accuracy_lines(accuracy: Accuracy) -> list[str]:
    """What was learned."""
    return [
        f"right label, base model      {accuracy.before:6.1%}   (guessing: {accuracy.chance:.1%})",
        f"right label, with the aLoRA  {accuracy.after:6.1%}",
        f"session verdicts that agree  {accuracy.verdicts_agree:6.1%}   "
        "(MelleaSession.validate against the label that engine.score finds)",
    ]


def cost_rows(costs: Sequence[CheckCost]) -> list[tuple[str, ...]]:
    """The cells of the table of costs, one row for each kind of check."""
    return [
        (
            _NAMES[cost.kind],
            f"{cost.context_tokens:,}",
            f"{cost.reused_tokens:,}",
            f"{cost.computed_tokens:,}",
            f"{cost.milliseconds:,.0f}",
        )
        for cost in costs
    ]


def legend(costs: Sequence[CheckCost]) -> list[str]:
    """What the columns mean, and the comparison in one sentence."""
    alora, lora = costs
    return [
        "tokens in context  what the check reads: report, answer and the words that invoke the adapter",
        "tokens reused      of these, already in the KV cache because the base model had read or written them",
        "tokens computed    tokens that went through the model for the check, those of the labels included",
        f"milliseconds       wall time of session.validate, the median of {ROUNDS} reports, both kinds on each",
        "ordinary LoRA      the same weights applied from the first token on, to compare the cost only; the base",
        "                   model's cache is of no use to it (what it reuses is its own: the chat's fixed opening)",
        f"The aLoRA check was {lora.milliseconds / alora.milliseconds:.1f} times as fast here.",
    ]


def print_costs(costs: Sequence[CheckCost]) -> None:
    """Print the table: drawn on a terminal, aligned columns anywhere else."""
    print_table(_COLUMNS, cost_rows(costs))
    typer.echo("\n".join(legend(costs)))


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """Print rows below their heads: drawn on a terminal, aligned columns anywhere else."""
    if sys.stdout.isatty():
        table = Table(title=title, title_justify="left")
        for at, column in enumerate(head):
            table.add_column(column, justify="right" if at else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        Console().print(table)
    else:
        typer.echo("\n".join([*([title] if title else []), *plain_table(head, rows)]))


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with the first column to the left and the others to the right."""
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    return ["  ".join(f"{cell:{'>' if at else '<'}{widths[at]}}" for at, cell in enumerate(line)) for line in lines]
