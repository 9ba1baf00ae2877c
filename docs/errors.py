"""Print docs/errors.md, the page on limits and errors, from the code: `python docs/errors.py`."""

from collections.abc import Iterator
from dataclasses import fields

# imported so that `LookalikeError.__subclasses__` finds their errors too
import ingest.errors  # noqa: F401
import training.errors  # noqa: F401
from encoder_service.limits import LIMITS, MAX_CALLS_PER_CONNECTION, MAX_PENDING_CALLS
from encoder_service.status import ERRORS, status_for
from gallery.errors import LookalikeError

_LIMITS = """\
# Limits and errors

This page is generated from the code by `make docs`.

## Limits

`GetEncoder` reports the limits of a service under the names below. The values are the defaults.

| name | maximum | number of | above the limit |
| --- | --- | --- | --- |"""

_ERRORS = """
## Errors

The message of an expected error is one line that says what was expected, what was found, and what to do. Any other
error is a bug in Lookalike: the service answers INTERNAL and logs the traceback, and a command ends with exit code 1.

Errors without a gRPC status occur only in commands.

| error | meaning | gRPC status | exit code |
| --- | --- | --- | --- |"""

_CLIENT = """
The Python client raises one error class for each gRPC status. Any other status becomes a `ServiceError`.

| gRPC status | error class in the client |
| --- | --- |"""

_EXIT_CODES = """
## Exit codes

| exit code | meaning |
| --- | --- |
| 0 | The command succeeded. A search without hits is a success. |
| 1 | An unexpected error, which is a bug in Lookalike. |
| 2 | Unknown or invalid options. |
| 3 | Invalid input. The same command would fail again. |
| 4 | The named gallery, image, encoder or source does not exist. |
| 5 | A file, store or service that the command needs is missing, locked, damaged, unreachable or forbidden. |
| 130 | The user stopped the command with Ctrl-C. |"""


def main() -> None:
    """Print the page."""
    print(_LIMITS)
    for limit in fields(LIMITS):
        value = getattr(LIMITS, limit.name)
        print(f"| `{limit.name}` | {value:,} | {limit.metadata['unit']} | {limit.metadata['beyond']} |")
    print(f"| not reported | {MAX_CALLS_PER_CONNECTION} | concurrent calls of one connection | the client waits |")
    pending = "accepted calls that no handler has picked up"
    print(f"| not reported | {MAX_PENDING_CALLS} | {pending} | CANCELLED, from gRPC itself |")
    print(_ERRORS)
    for error in sorted(set(_subclasses(LookalikeError)), key=lambda error: (error.exit_code, error.__name__)):
        meaning = (error.__doc__ or "").splitlines()[0]
        in_service = error.__module__.startswith(("gallery", "encoder_service"))
        status = status_for(error).name if in_service else "—"
        print(f"| `{error.__name__}` | {meaning} | {status} | {error.exit_code} |")
    print(_CLIENT)
    for status, error in ERRORS.items():
        print(f"| {status.name} | `{error.__name__}` |")
    print(_EXIT_CODES)


def _subclasses(error: type[LookalikeError]) -> Iterator[type[LookalikeError]]:
    for subclass in error.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


if __name__ == "__main__":
    main()
