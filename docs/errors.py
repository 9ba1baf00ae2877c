"""Every limit and error, from the code: `python docs/errors.py` prints docs/errors.md."""

from collections.abc import Iterator

import training.errors  # noqa: F401 (its errors are found as subclasses)
from encoder_service.adder import MAX_KEY_LENGTH
from encoder_service.config import MAX_ADDED_AT_ONCE, MAX_BATCH, MAX_BATCH_HITS, MAX_MESSAGE_BYTES, Config
from encoder_service.images import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from encoder_service.server import CALLS_OF_CONNECTION, PENDING
from encoder_service.status import outcome
from gallery import MAX_LIMIT
from gallery.errors import InvalidInputError, LookalikeError, NotFoundError, UnavailableError
from ingest.errors import StoppedError

_USUAL = Config()
# Never raised themselves; and StoppedError is no mistake: a command that was stopped exits with 130.
_BASES = (InvalidInputError, NotFoundError, UnavailableError, StoppedError)
_LIMITS = (
    ("bytes of one image file", MAX_IMAGE_BYTES, "INVALID_ARGUMENT"),
    ("pixels of one image, before it is decoded", MAX_IMAGE_PIXELS, "INVALID_ARGUMENT"),
    ("hits of one search; labels or keys of a filter; keys of one DeleteImages", MAX_LIMIT, "INVALID_ARGUMENT"),
    ("searches of one BatchSearch", MAX_BATCH, "INVALID_ARGUMENT"),
    ("hits of all searches of one BatchSearch", MAX_BATCH_HITS, "INVALID_ARGUMENT"),
    ("characters of a key or a label", MAX_KEY_LENGTH, "INVALID_ARGUMENT"),
    ("bytes of one message", MAX_MESSAGE_BYTES, "RESOURCE_EXHAUSTED, from gRPC itself"),
    ("images of a stream taken in ahead of their answers", MAX_ADDED_AT_ONCE, "the client waits"),
    ("calls under way, `--max-concurrent-calls`", _USUAL.max_concurrent_calls, "RESOURCE_EXHAUSTED, `retry-after`"),
    ("streams under way, `--max-streams`", _USUAL.max_streams, "RESOURCE_EXHAUSTED, `retry-after`"),
    ("calls and streams under way on one connection", CALLS_OF_CONNECTION, "the client waits"),
    ("calls that have come in a moment and not been looked at yet", PENDING, "CANCELLED, from gRPC itself"),
)


def main() -> None:
    """Print the page."""
    print("# Limits and errors\n")
    print("Made from the code by `make docs`.\n")
    print("## Limits\n")
    print("`GetEncoder` tells them too.\n")
    print("| limit | the most | beyond it |\n| --- | --- | --- |")
    for what, most, beyond in _LIMITS:
        print(f"| {what} | {most:,} | {beyond} |")
    print("\n## Errors\n")
    print(
        "What is not in this table is a fault of Lookalike's: INTERNAL, exit code 1, and a line in the service's log.\n"
    )
    print("| error | what it means | gRPC status | exit code |\n| --- | --- | --- | --- |")
    for error in sorted(set(_below(LookalikeError)), key=lambda one: (outcome(one()).exit_code, one.__name__)):
        meaning = (error.__doc__ or "").splitlines()[0]
        status, code = outcome(error())
        # errors that only a command meets have no status of their own
        shown = status.name if error.__module__.startswith(("gallery", "encoder_service")) else "—"
        print(f"| {error.__name__} | {meaning} | {shown} | {code} |")


def _below(error: type[LookalikeError]) -> Iterator[type[LookalikeError]]:
    for kind in error.__subclasses__():
        if kind not in _BASES:
            yield kind
        yield from _below(kind)


if __name__ == "__main__":
    main()
