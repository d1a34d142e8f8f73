"""Show how far a run has come: bars on a terminal, a few plain lines anywhere else."""

from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from alorakit.training.config import ProgressEvent


class ProgressDisplay:
    """The ``progress`` callback of a training run; a context manager.

    Args:
        stream: Where to draw. Bars if it is a terminal; else a line whenever a stage begins, gains a tenth or ends.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}
        self._rich: Progress | None = None
        if stream.isatty():
            columns = (TextColumn("{task.fields[stage]:<8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._rich = Progress(*columns, TextColumn("{task.fields[message]}"), console=Console(file=stream))

    def __enter__(self) -> Self:
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    def __call__(self, event: ProgressEvent) -> None:
        """Show one event."""
        if self._rich is not None:
            self._draw(self._rich, event)
        else:
            self._print(event)

    def _draw(self, bars: Progress, event: ProgressEvent) -> None:
        if event.stage not in self._bars:
            self._bars[event.stage] = bars.add_task("", stage=event.stage, message="")
        bars.update(self._bars[event.stage], completed=event.done, total=event.total, message=event.message)

    def _print(self, event: ProgressEvent) -> None:
        tenth = 10 * event.done // event.total if event.total else 10
        # The end is always shown: a stage may come again in one event, as an evaluation after every epoch.
        if self._tenths.get(event.stage) == tenth and event.done < event.total:
            return
        self._tenths[event.stage] = tenth
        print(f"{event.stage} {event.done}/{event.total} {event.message}".rstrip(), file=self._stream, flush=True)
