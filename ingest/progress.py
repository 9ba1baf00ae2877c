"""Progress on stderr: bars at a terminal, plain lines anywhere else."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class Advance(Protocol):
    """Tells that so many more are done, and where that has become clearer, of how many."""

    def __call__(self, count: int, total: int | None = None) -> None:
        """Show it."""
        ...


_LINE_EVERY_S = 2.0


class Stages:
    """Shows how far each stage of a job is. Use it in a `with`; stages may run at once."""

    def __init__(self) -> None:
        """Choose bars or lines by what stderr is."""
        self._bars: Progress | None = _bars() if sys.stderr.isatty() else None

    def __enter__(self) -> "Stages":
        """Begin to draw."""
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Leave the last state standing."""
        if self._bars:
            self._bars.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        if self._bars:
            self._bars.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str = "images") -> Iterator[Advance]:
        """Show one stage while the block runs.

        Args:
            name: What is being done: "encoding".
            total: How many there are to do; None where the stage can't tell how far it is.
            unit: What is counted.

        Yields:
            A function to call with how many more are done.
        """
        if self._bars is None:
            lines = _Lines(name, total, unit)
            yield lines.advance
            lines.end()
            return
        bars = self._bars
        task = bars.add_task(name, total=total)

        def advance(count: int, total: int | None = None) -> None:
            bars.update(task, advance=count, total=total)

        yield advance
        if not bars.tasks[task].completed:
            bars.update(task, total=1, completed=1)


class _Lines:
    """A stage as plain lines, one every two seconds and one at its end."""

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._begun = self._told = time.monotonic()
        self._done = 0
        if total is None:
            print(f"{name} …", file=sys.stderr, flush=True)

    def advance(self, count: int, total: int | None = None) -> None:
        self._done += count
        self._total = total or self._total
        now = time.monotonic()
        if now - self._told < _LINE_EVERY_S:
            return
        self._told = now
        rate = self._done / (now - self._begun)
        line = f"{self._name} {self._done:,}"
        if self._total:
            line += f" of {self._total:,} {self._unit}, {rate:,.0f}/s, {(self._total - self._done) / rate:.0f} s left"
        else:
            line += f" {self._unit}, {rate:,.0f}/s"
        print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        seconds = time.monotonic() - self._begun
        line = f"{self._name}: "
        if self._done:
            line += f"{self._done:,} {self._unit} in {seconds:.1f} s, {self._done / max(seconds, 1e-9):,.0f}/s"
        else:
            line += f"{seconds:.1f} s"
        print(line, file=sys.stderr, flush=True)


class _Rate(ProgressColumn):
    """Finished steps a second, over the whole stage."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time or task.elapsed
        if not seconds or not task.completed or task.total in (None, 1):
            return Text("")
        return Text(f"{task.completed / seconds:,.0f}/s", style="cyan")


def _bars() -> Progress:
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
