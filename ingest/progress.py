"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

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

from gallery.plurals import counted


class Advance(Protocol):
    """A function that reports the progress of a stage."""

    def __call__(self, count: int, total: int | None = None) -> None:
        """Report that `count` more items are done.

        Args:
            count: Number of items done since the last call.
            total: Number of all items, if a better estimate is known now; None to keep the previous number.
        """
        ...


# Seconds between two lines of one stage. This keeps a log short, and still shows that the job is alive.
_LINE_EVERY_S = 2.0


class Stages:
    """Displays the progress of a job's stages, which may run concurrently. A context manager."""

    def __init__(self) -> None:
        """Choose bars if stderr is a terminal, and lines otherwise."""
        self._bars: Progress | None = _bars() if sys.stderr.isatty() else None

    def __enter__(self) -> "Stages":
        """Start drawing the bars."""
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Stop drawing, and leave the bars as they are."""
        if self._bars:
            self._bars.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        if self._bars:
            self._bars.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str = "image") -> Iterator[Advance]:
        """Display one stage while the block runs.

        Args:
            name: Name of the stage, such as "loading".
            total: Number of items to do; None if it is unknown.
            unit: Name of one item, in the singular.

        Yields:
            A function that reports progress.
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
    """A stage displayed as lines: one every two seconds, and one at the end."""

    def __init__(self, name: str, total: int | None, unit: str) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._begun = self._printed = time.monotonic()
        self._done = 0
        if total is None:
            print(f"{name} …", file=sys.stderr, flush=True)

    def advance(self, count: int, total: int | None = None) -> None:
        self._done += count
        self._total = total or self._total
        now = time.monotonic()
        if now - self._printed < _LINE_EVERY_S:
            return
        self._printed = now
        seconds = now - self._begun
        if self._total and self._done:
            left_s = (self._total - self._done) * seconds / self._done
            done, left = f"{self._done:,} of {counted(self._total, self._unit)}", f", {left_s:.0f} s left"
        else:
            done, left = counted(self._done, self._unit), ""
        print(f"{self._name} {done}, {_speed(self._done, seconds)}{left}", file=sys.stderr, flush=True)

    def end(self) -> None:
        seconds = time.monotonic() - self._begun
        line = f"{self._name}: "
        if self._done:
            line += f"{counted(self._done, self._unit)} in {seconds:.1f} s, {_speed(self._done, seconds)}"
        else:
            line += f"{seconds:.1f} s"
        print(line, file=sys.stderr, flush=True)


class _Rate(ProgressColumn):
    """Column with the speed, averaged over the whole stage."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time or task.elapsed
        if not seconds or not task.completed or task.total in (None, 1):
            return Text("")
        return Text(_speed(task.completed, seconds), style="cyan")


def _speed(done: float, seconds: float) -> str:
    """Return the items done a second, "1,030/s"; or if they take longer than a second each, "3.4 s each"."""
    return f"{done / max(seconds, 1e-9):,.0f}/s" if done >= seconds else f"{seconds / done:.1f} s each"


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
