"""Map error classes to gRPC statuses in the service, and gRPC statuses back to error classes in its clients."""

import grpc

from encoder_service.errors import ForbiddenError, ServiceError, UnauthenticatedError
from gallery.errors import (
    EncoderMismatchError,
    InvalidInputError,
    LookalikeError,
    NotFoundError,
    OverloadedError,
    TooLateError,
    UnavailableError,
)

STATUSES: dict[type[LookalikeError], grpc.StatusCode] = {
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    EncoderMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    TooLateError: grpc.StatusCode.DEADLINE_EXCEEDED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
"""The status of each error class. A class that is not listed has the status of its nearest listed base."""

ERRORS: dict[grpc.StatusCode, type[LookalikeError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInputError,
    grpc.StatusCode.FAILED_PRECONDITION: EncoderMismatchError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: ForbiddenError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: TooLateError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
}
"""The error class that a client raises for each status. Any other status becomes a `ServiceError`.

Each class has the same exit code as all classes that `STATUSES` maps to this status, and is a base of them.
"""


def status_for(error: type[LookalikeError]) -> grpc.StatusCode:
    """Return the gRPC status of an error class; INTERNAL for a class that no RPC is expected to raise."""
    return next((STATUSES[base] for base in error.__mro__ if base in STATUSES), grpc.StatusCode.INTERNAL)


def error_from_status(status: grpc.StatusCode, message: str) -> LookalikeError:
    """Return the error for a status and a message from the service."""
    if status in ERRORS:
        return ERRORS[status](message)
    return ServiceError(f"{status.name}: {message}")
