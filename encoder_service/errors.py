"""The errors of images, encoders and the service. They extend the classes of `gallery.errors`.

LookalikeError
├── UnauthenticatedError        the call has no token, or an unknown token
└── ForbiddenError              the call writes, and its token allows reading only
InvalidInputError
├── ImageError                  the bytes or pixels are not an image
│   └── ImageTooLargeError      the image exceeds a limit; it has not been decoded
├── RequestError                a request lacks a field or exceeds a limit
└── InputShapeError             an array has another shape than the encoder takes
NotFoundError
└── EncoderNotFoundError        no encoder has this name
UnavailableError
├── EncoderDamagedError         model files are missing, or do not match the model card
└── ServiceError                the service did not answer, or failed
"""

from collections.abc import Iterator
from contextlib import contextmanager

from gallery.errors import InvalidInputError, LookalikeError, NotFoundError, UnavailableError


class UnauthenticatedError(LookalikeError):
    """The caller did not prove who it is."""

    exit_code = 5


class ForbiddenError(LookalikeError):
    """The caller's token does not permit this call."""

    exit_code = 5


class ImageError(InvalidInputError):
    """The image is empty, truncated or not an image."""


class ImageTooLargeError(ImageError):
    """The image has more bytes or pixels than the limit."""


class RequestError(InvalidInputError):
    """A request lacks a field or exceeds a limit of the service."""


class InputShapeError(InvalidInputError):
    """An array does not have the shape of the encoder's inputs."""


class EncoderNotFoundError(NotFoundError):
    """No encoder has this name."""


class EncoderDamagedError(UnavailableError):
    """An encoder's files are missing or altered."""

    summary = "Files of an encoder are missing or altered."


class ServiceError(UnavailableError):
    """The service did not answer as expected."""


@contextmanager
def at(item: str) -> Iterator[None]:
    """Prefix the message of a `LookalikeError` raised in the block with the item concerned, such as "requests[3]"."""
    try:
        yield
    except LookalikeError as error:
        raise error.at(item) from error


def quoted(name: str) -> str:
    """Return a name in quotes, cut to 200 bytes of UTF-8 because users choose names and messages must stay short."""
    content = name.encode("utf-8", "replace")
    return f"'{name}'" if len(content) <= 200 else f"'{content[:197].decode('utf-8', 'ignore')}…'"
