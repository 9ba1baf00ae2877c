"""The expected errors of all packages, as one tree. The other packages derive their errors from these.

    LookalikeError
    ├── InvalidInputError               the caller's mistake: fix the input
    │   ├── InvalidCodeError            a code with NaN, infinity, a norm that is too large, or the wrong size
    │   ├── InvalidQueryError           a field of a query, a name or a setting that is not allowed
    │   └── BackupError                 a backup that is incomplete or altered, or can't be made
    ├── NotFoundError                   the named thing does not exist
    │   ├── GalleryNotFoundError
    │   ├── KeyNotFoundError
    │   └── MapNotFoundError
    ├── EncoderMismatchError            codes of two encoders would be compared
    └── UnavailableError                something that the call needs can't be used now
        ├── TooLateError                the caller's deadline has passed, or the caller has gone
        ├── OverloadedError             more work than can be accepted
        ├── NewerFormatError            a file that a newer release wrote
        └── StoreError                  any failure of a store
            ├── StoreUnusableError      its folder or file can't be read or written
            ├── StoreFullError          its disk is full, or has too little space
            ├── StoreLockedError        another process holds it
            ├── StoreDamagedError       its files are missing or altered
            ├── StoreUnreachableError   no server answers at its address
            ├── StoreRefusedError       the server rejects the configured API key, or is too old
            ├── StoreSlowError          the server did not answer in time (also a TooLateError)
            └── StoreBusyError          the server is overloaded (also an OverloadedError)

Each message is one line that says what was expected, what was found, and what to do.
"""

from copy import copy
from typing import ClassVar, Self


class LookalikeError(Exception):
    """Base of every expected error. Catch it to handle all of them, and show the text to the user.

        try:
            client.search(Path("digit.png"))
        except LookalikeError as error:
            sys.exit(str(error))

    Attributes:
        message: One line for the user, without `place`.
        place: The file, folder or server that the error concerns; empty if unknown. It is never sent to a client.
        exit_code: Exit code of a command that ends with this error.
        summary: Text that a service sends to clients instead of the message, because messages of this class may name
            files or servers of the service; empty if the message itself is sent.
    """

    exit_code: ClassVar[int] = 1
    summary: ClassVar[str] = ""

    def __init__(self, message: str, *, place: str = "") -> None:
        """Create the error. `str` puts the place in front of the message."""
        super().__init__(message)
        self.message = message
        self.place = place

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message

    def at(self, item: str) -> Self:
        """Return a copy whose message begins with the name of the item that caused the error, such as "requests[3]"."""
        located = copy(self)
        located.message = f"{item}: {self.message}"
        return located


class InvalidInputError(LookalikeError):
    """The input is wrong; the same call would fail again."""

    exit_code = 3


class InvalidCodeError(InvalidInputError):
    """A code has the wrong size, a number that is not finite, or a norm so large that distances overflow."""


class InvalidQueryError(InvalidInputError):
    """A field of a query, a name or a setting has a value that is not allowed."""


class BackupError(InvalidInputError):
    """A backup is incomplete or altered, or can't be made."""


class NotFoundError(LookalikeError):
    """The named thing does not exist."""

    exit_code = 4


class GalleryNotFoundError(NotFoundError):
    """The store has no gallery of this name."""


class KeyNotFoundError(NotFoundError):
    """The gallery has no image with this key."""


class MapNotFoundError(NotFoundError):
    """The gallery has no map."""


class EncoderMismatchError(LookalikeError):
    """A gallery was made by another encoder than the one in use."""

    exit_code = 3


class UnavailableError(LookalikeError):
    """Something that the call needs is missing, locked or broken; the same call may succeed later."""

    exit_code = 5


class TooLateError(UnavailableError):
    """The caller's deadline has passed, or the caller has gone."""


class OverloadedError(UnavailableError):
    """More work has arrived than can be accepted."""


class NewerFormatError(UnavailableError):
    """A file was written by a newer release, in a format that this one can't read."""

    summary = "A file of the service was written by a newer release of Lookalike."


class StoreError(UnavailableError):
    """Base of every failure of a store."""

    summary = "The store can't be used."


class StoreUnusableError(StoreError):
    """The store's folder or file can't be read or written."""


class StoreFullError(StoreError):
    """The store's disk is full, or has too little space for the next write."""

    summary = "The store's disk is full."


class StoreLockedError(StoreError):
    """Another process holds a file that only one process may use."""

    summary = "Another process holds the store."


class StoreDamagedError(StoreError):
    """Files of the store are missing or altered."""

    summary = "Files of the store are missing or altered."


class StoreUnreachableError(StoreError):
    """No server answers at the store's address."""

    summary = "The store's server can't be reached."


class StoreRefusedError(StoreError):
    """The store's server rejects the configured API key, or is too old."""

    summary = "The store's server refuses this service."


class StoreSlowError(StoreError, TooLateError):
    """The store's server did not answer in time."""

    summary = "The store's server did not answer in time."


class StoreBusyError(StoreError, OverloadedError):
    """The store's server is overloaded."""

    summary = "The store's server is overloaded."
