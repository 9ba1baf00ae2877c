"""A table of measurements, printed as text and written as Markdown."""

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Table:
    """Measurements of several candidates.

    Attributes:
        title: Title in one line.
        columns: Name of each column. The first column names the candidate.
        rows: Cells of each row, one for each column.
        note: Sentences about how the figures were measured.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __str__(self) -> str:
        """Return the table as aligned text."""
        lines = [self.columns, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.columns))]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
        ]
        return "\n".join([self.title, *text, ""])

    def markdown(self) -> str:
        """Return the table as Markdown, with its title and its note."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(
            [
                f"## {self.title}",
                "",
                *([self.note, ""] if self.note else []),
                *(f"| {' | '.join(line)} |" for line in lines),
                "",
            ]
        )

    def plot(self, column: str, file: Path) -> None:
        """Draw one column of numbers as bars on a logarithmic scale, smallest first."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        at = list(self.columns).index(column)
        rows = sorted(self.rows, key=lambda row: float(row[at]), reverse=True)
        figure, axis = pyplot.subplots(figsize=(8, 0.32 * len(rows) + 1), constrained_layout=True)
        bars = axis.barh([row[0].replace("`", "") for row in rows], [float(row[at]) for row in rows], color="#4a7f8c")
        axis.bar_label(bars, [row[at] for row in rows], padding=4)
        axis.set(xscale="log", xlabel=column, title=self.title)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(file, dpi=110)


def machine() -> str:
    """Describe the machine, in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}"


def versions(packages: Sequence[str]) -> str:
    """List packages with their versions, in one line."""
    return ", ".join(f"{package} {metadata.version(package)}" for package in packages)
