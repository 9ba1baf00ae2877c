"""Every limit and error, from the code: `python docs/errors.py` prints docs/errors.md."""

from collections.abc import Iterator
from dataclasses import fields

import training.errors  # noqa: F401 (its errors are found as subclasses)
from encoder_service.limits import LIMITS, MAX_CALLS_PER_CONNECTION, MAX_PENDING_CALLS
from encoder_service.status import status_for
from gallery.errors import InvalidInputError, LookalikeError, NotFoundError, UnavailableError
from ingest.errors import StoppedError

# Never raised themselves; and StoppedError is no mistake: a command that was stopped exits with 130.
_BASES = (InvalidInputError, NotFoundError, UnavailableError, StoppedError)


def main() -> None:
    """Print the page."""
    print("# Limits and errors\n")
    print("Made from the code by `make docs`.\n")
    print("## Limits\n")
    print("`GetEncoder` tells them too.\n")
    print("| limit | the most | beyond it |\n| --- | --- | --- |")
    for one in fields(LIMITS):
        print(f"| {one.metadata['unit']} | {getattr(LIMITS, one.name):,} | {one.metadata['beyond']} |")
    print(f"| concurrent calls of one connection | {MAX_CALLS_PER_CONNECTION} | the client waits |")
    print(f"| accepted calls that no handler has picked up | {MAX_PENDING_CALLS} | CANCELLED, from gRPC itself |")
    print("\n## Errors\n")
    print(
        "What is not in this table is a fault of Lookalike's: INTERNAL, exit code 1, and a line in the service's log.\n"
    )
    print("| error | what it means | gRPC status | exit code |\n| --- | --- | --- | --- |")
    for error in sorted(set(_below(LookalikeError)), key=lambda one: (one.exit_code, one.__name__)):
        meaning = (error.__doc__ or "").splitlines()[0]
        # errors that only a command meets have no status of their own
        shown = status_for(error).name if error.__module__.startswith(("gallery", "encoder_service")) else "—"
        print(f"| {error.__name__} | {meaning} | {shown} | {error.exit_code} |")


def _below(error: type[LookalikeError]) -> Iterator[type[LookalikeError]]:
    for kind in error.__subclasses__():
        if kind not in _BASES:
            yield kind
        yield from _below(kind)


if __name__ == "__main__":
    main()
