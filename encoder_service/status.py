"""The one table from expected errors to gRPC statuses and to exit codes, and back from a status to an error."""

from typing import NamedTuple

import grpc

from encoder_service.errors import ForbiddenError, OverloadedError, ServiceError, UnauthenticatedError
from gallery.errors import (
    EncoderMismatchError,
    InvalidInputError,
    LookalikeError,
    NotFoundError,
    StoreBusyError,
    StoreRefusedError,
    StoreSlowError,
    TooLateError,
    UnavailableError,
)


class Outcome(NamedTuple):
    """How an error shows outside: over gRPC, and as a process's exit code."""

    status: grpc.StatusCode
    exit_code: int


# An error takes the row of the nearest of its bases. What is in no row is unexpected: INTERNAL, exit code 1.
OUTCOMES: dict[type[LookalikeError], Outcome] = {
    InvalidInputError: Outcome(grpc.StatusCode.INVALID_ARGUMENT, 3),
    EncoderMismatchError: Outcome(grpc.StatusCode.FAILED_PRECONDITION, 3),
    NotFoundError: Outcome(grpc.StatusCode.NOT_FOUND, 4),
    UnavailableError: Outcome(grpc.StatusCode.UNAVAILABLE, 5),
    UnauthenticatedError: Outcome(grpc.StatusCode.UNAUTHENTICATED, 5),
    ForbiddenError: Outcome(grpc.StatusCode.PERMISSION_DENIED, 5),
    OverloadedError: Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED, 5),
    TooLateError: Outcome(grpc.StatusCode.DEADLINE_EXCEEDED, 5),
    StoreSlowError: Outcome(grpc.StatusCode.DEADLINE_EXCEEDED, 5),
    StoreBusyError: Outcome(grpc.StatusCode.RESOURCE_EXHAUSTED, 5),
    StoreRefusedError: Outcome(grpc.StatusCode.FAILED_PRECONDITION, 5),
}


def outcome(error: BaseException) -> Outcome:
    """Look up how an error shows outside."""
    for base in type(error).__mro__:
        if base in OUTCOMES:
            return OUTCOMES[base]
    return Outcome(grpc.StatusCode.INTERNAL, 1)


def error_of(status: grpc.StatusCode, message: str) -> LookalikeError:
    """Return the error that a status from the service stands for, with the service's own message."""
    for kind, row in OUTCOMES.items():
        if row.status is status and kind is not UnavailableError:
            return kind(message)
    return ServiceError(f"{status.name}: {message}")
