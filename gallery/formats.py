"""Format numbers in the files that Lookalike writes, so that an older release rejects a newer file with a clear error.

Release 0.1.0 wrote no format numbers, so a file without one has format 1.
"""

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from gallery.errors import NewerFormatError

FORMAT_KEY = "format"
"""The key of the format number in a JSON object."""


def parse_object(content: bytes) -> Mapping[str, Any]:
    """Parse a file that should contain one JSON object but may contain anything.

    Raises:
        ValueError: The content is not a JSON object, or is nested too deeply.
    """
    try:
        parsed = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(parsed, dict):
        raise ValueError(f"expected a JSON object, got {reprlib.repr(parsed)}")
    return parsed


def check_format(content: Mapping[str, Any], newest: int, place: str) -> None:
    """Reject a JSON object whose format is newer than this release can read.

    Args:
        content: The object, with its format number under `FORMAT_KEY`.
        newest: The newest format that this release can read.
        place: The file or collection that holds the object, for the error.

    Raises:
        NewerFormatError: The format is newer than `newest`.
    """
    check_format_number(content.get(FORMAT_KEY, 1), newest, place)


def check_format_number(number: object, newest: int, place: str) -> None:
    """Reject a format number that is newer than this release can read; see `check_format`.

    All releases so far write an integer. A number of any other type also counts as newer.
    """
    if not isinstance(number, int) or number > newest:
        raise NewerFormatError(
            f"made by a newer Lookalike: expected format {newest} or older, got {number!r}: upgrade Lookalike",
            place=place,
        )
