"""Format numbers of the files that Lookalike writes, so that an older release can refuse a newer file in words.

Release 0.1.0 wrote no number: a file without one has format 1.
"""

from collections.abc import Mapping
from typing import Any

from gallery.errors import NewerFormatError

FORMAT_KEY = "format"


def check_format(facts: Mapping[str, Any], newest: int, what: str) -> None:
    """Refuse the content of a JSON file whose format is newer than this release knows.

    Args:
        facts: The file's content; its number is under `FORMAT_KEY`.
        newest: The newest format that this release reads.
        what: The file, for the message.

    Raises:
        NewerFormatError: The number is larger than `newest`.
    """
    check_format_number(facts.get(FORMAT_KEY, 1), newest, what)


def check_format_number(number: object, newest: int, what: str) -> None:
    """Refuse a format number that is newer than this release knows; see `check_format`."""
    if isinstance(number, int) and number > newest:
        raise NewerFormatError(
            f"made by a newer Lookalike: expected format {newest} or older, got {number}: upgrade Lookalike", place=what
        )
