"""Failures of the Qdrant client: decide when to retry, and translate them into errors of this project."""

import grpc
import tenacity
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from gallery.errors import (
    GalleryNotFoundError,
    LookalikeError,
    StoreBusyError,
    StoreRefusedError,
    StoreSlowError,
    StoreUnreachableError,
    StoreUnusableError,
)

# Random pauses between attempts, in seconds: up to 0.1 before the first retry, then up to 0.2, 0.4 and so on.
_PAUSE = tenacity.wait_random_exponential(multiplier=0.1, max=5)
# Maximum characters of a server's message that an error quotes.
_QUOTED = 200


def is_transient(error: BaseException) -> bool:
    """Return whether a retry may succeed."""
    code = _code(error)
    # A cluster that has just lost a node fails with INTERNAL. Only the error's text asks for a retry.
    retry_requested = code is grpc.StatusCode.INTERNAL and "retry" in str(error).lower()
    return retry_requested or code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


def pause_s(state: tenacity.RetryCallState) -> float:
    """Return the pause before the next attempt, in seconds: the one that the server asks for, or else a random one."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, ResourceExhaustedResponse):
        return float(error.retry_after_s)
    return _PAUSE(state)


def translated(error: Exception, place: str) -> LookalikeError:
    """Return a failure as an error of this project.

    Args:
        error: An exception that the client raised.
        place: The store, for the error.
    """
    text = " ".join(str(getattr(error, "details", lambda: error)() or error).split())[:_QUOTED]
    match _code(error):
        case grpc.StatusCode.UNAVAILABLE:
            return StoreUnreachableError(
                f"can't be reached ({text}): start it, or name another with --store", place=place
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return StoreSlowError("did not answer in time: it is overloaded, or too far away", place=place)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return StoreBusyError(f"is overloaded ({text}): send less, or try again later", place=place)
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return StoreRefusedError(
                f"refuses this client ({text}): set QDRANT_API_KEY or QDRANT_API_KEY_FILE", place=place
            )
        case grpc.StatusCode.NOT_FOUND:
            return GalleryNotFoundError(text, place=place)
        case code:
            name = code.name if code else type(error).__name__
            return StoreUnusableError(f"did not answer as Qdrant does: {name}: {text}", place=place)


def _code(error: BaseException) -> grpc.StatusCode | None:
    if isinstance(error, ResourceExhaustedResponse):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    return error.code() if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call) else None
