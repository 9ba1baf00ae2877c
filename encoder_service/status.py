"""The two tables between expected errors and gRPC statuses: one for the service, one for its clients."""

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
"""The status of each error. An error without a row has that of its nearest base."""

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
"""The error that a client raises for each status. Any other status becomes a `ServiceError`."""


def status_for(error: type[LookalikeError]) -> grpc.StatusCode:
    """Return the gRPC status of an error; INTERNAL for one that no RPC is expected to raise."""
    return next((STATUSES[base] for base in error.__mro__ if base in STATUSES), grpc.StatusCode.INTERNAL)


def error_from_status(status: grpc.StatusCode, message: str) -> LookalikeError:
    """Return the error that a status from the service stands for, with the service's own message."""
    if status in ERRORS:
        return ERRORS[status](message)
    return ServiceError(f"{status.name}: {message}")
