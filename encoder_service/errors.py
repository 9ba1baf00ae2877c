"""What can go wrong with images and encoders, as further leaves of the tree in `gallery.errors`.

LookalikeError
├── UnauthenticatedError       no token, or one that is not known
├── ForbiddenError             a token that may read where writing is asked for
└── OverloadedError            more calls than the service takes at once
InvalidInputError
├── ImageError                 bytes or pixels that are no image
│   └── ImageTooLargeError     over a limit; refused before it is decoded
├── RequestError               a request that lacks something or asks for too much
└── InputShapeError            an array of another shape than the encoder takes
NotFoundError
└── EncoderNotFoundError
UnavailableError
├── EncoderDamagedError        model files that are missing or not those of the model card
└── ServiceError               no answer from the service, or one that makes no sense
"""

from collections.abc import Iterator
from contextlib import contextmanager

from gallery.errors import InvalidInputError, LookalikeError, NotFoundError, UnavailableError


class UnauthenticatedError(LookalikeError):
    """The caller has not said who it is."""


class ForbiddenError(LookalikeError):
    """The caller may not do this."""


class OverloadedError(LookalikeError):
    """The service has as many calls under way as it takes."""


class ImageError(InvalidInputError):
    """The image is empty, cut off, or no image at all."""


class ImageTooLargeError(ImageError):
    """The image has more bytes or pixels than the limit."""


class RequestError(InvalidInputError):
    """A request lacks a field or asks for more than the service gives."""


class InputShapeError(InvalidInputError):
    """An array has another shape than the encoder takes."""


class EncoderNotFoundError(NotFoundError):
    """There is no encoder of that name."""


class EncoderDamagedError(UnavailableError):
    """An encoder's files are missing or altered."""


class ServiceError(UnavailableError):
    """The service did not answer as expected."""


@contextmanager
def at(place: str) -> Iterator[None]:
    """Name the place, such as "requests[3]", in the message of any expected error raised inside."""
    try:
        yield
    except LookalikeError as error:
        raise type(error)(f"{place}: {error}") from error
