"""The results that commands keep with a version: how precise searches are, and how many images are duplicates.

A change of the images discards them, because they may no longer hold. They are in a file in the folder of the version's
local files, which is not part of the version's manifest, so that the commands can run while a service has the version
open.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gallery.errors import NewerFormatError
from gallery.files import replace_file
from gallery.formats import FORMAT_KEY, check_format, parse_object

FINDINGS = "findings.json"
"""Name of the file."""
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Findings:
    """Results of `ingest evaluate` and `ingest duplicates`. None where a command has not run on this version.

    Attributes:
        precision_at_5: Share of the five nearest hits that have the query's label, 0 to 1.
        query_count: Number of queries with which the precision was measured.
        duplicate_count: Number of images that are the same picture as another image.
    """

    precision_at_5: float | None = None
    query_count: int | None = None
    duplicate_count: int | None = None


NO_FINDINGS = Findings()
"""The findings of a version that no command has assessed."""


def read_findings(folder: Path) -> Findings:
    """Return the findings in a folder. A missing or unreadable file counts as empty: commands can write it again."""
    with suppress(OSError, ValueError, NewerFormatError):
        content = parse_object((folder / FINDINGS).read_bytes())
        check_format(content, _FORMAT, str(folder / FINDINGS))
        known = {field.name: content.get(field.name) for field in fields(Findings)}
        if all(value is None or isinstance(value, int | float) for value in known.values()):
            return Findings(**known)
    return NO_FINDINGS


def add_findings(folder: Path, **found: Any) -> None:
    """Record findings, by their names, beside those that are recorded already. In a read-only store, do nothing."""
    content = {FORMAT_KEY: _FORMAT, **asdict(replace(read_findings(folder), **found))}
    with suppress(OSError):
        replace_file(folder / FINDINGS, (json.dumps(content) + "\n").encode())


def discard_findings(folder: Path) -> None:
    """Remove the findings in a folder, because the images change. In a read-only folder, do nothing."""
    with suppress(OSError):
        (folder / FINDINGS).unlink(missing_ok=True)
