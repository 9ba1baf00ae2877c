"""What can go wrong on purpose. The other packages hang their errors into this tree.

    LookalikeError
    ├── InvalidInputError          the caller's mistake: fix the input
    │   ├── InvalidCodeError       a code with NaN, infinity or a wrong size
    │   ├── InvalidQueryError      a limit, bound or name out of range
    │   └── BackupError            a backup that is not whole, or can't be written
    ├── NotFoundError              what was named is not there
    │   ├── GalleryNotFoundError
    │   └── KeyNotFoundError
    ├── EncoderMismatchError       codes of two encoders would be compared
    ├── TooLateError               nobody waits for the answer any more
    └── UnavailableError           something this needs can't be used now
        ├── StoreError             the store's folder is not one, or can't be used
        ├── StoreFullError         its disk has no space left
        ├── StoreLockedError       another process holds it
        ├── StoreDamagedError      its files are not whole
        ├── StoreUnreachableError  no server answers there
        ├── StoreSlowError         the server did not answer in time
        ├── StoreBusyError         the server has too much to do
        └── StoreRefusedError      the server wants another key, or is too old

Each message is one line: what was expected, what came, and what to do.
"""


class LookalikeError(Exception):
    """Base of every expected error. Its text is one line, meant for the user."""


class InvalidInputError(LookalikeError):
    """The input is wrong and the same call would fail again."""


class InvalidCodeError(InvalidInputError):
    """A code is not made of the right count of finite numbers."""


class InvalidQueryError(InvalidInputError):
    """A field of a query or a name is out of its range."""


class BackupError(InvalidInputError):
    """A backup is cut off or altered, or can't be made."""


class NotFoundError(LookalikeError):
    """What was named does not exist."""


class GalleryNotFoundError(NotFoundError):
    """The store has no gallery of that name."""


class KeyNotFoundError(NotFoundError):
    """The gallery has no image of that key."""


class EncoderMismatchError(LookalikeError):
    """A gallery was made by another encoder than the one in use."""


class TooLateError(LookalikeError):
    """The caller's time is over, or it has gone away."""


class UnavailableError(LookalikeError):
    """Something outside this process is missing, held or broken; the same call may pass later."""


class StoreError(UnavailableError):
    """The store can't be opened or written where it is."""


class StoreFullError(UnavailableError):
    """The store's disk is full, or would be."""


class StoreLockedError(UnavailableError):
    """Another process holds what this one needs alone."""


class StoreDamagedError(UnavailableError):
    """Files of the store are missing or not what they should be."""


class StoreUnreachableError(UnavailableError):
    """No server answers where the store should be."""


class StoreSlowError(UnavailableError):
    """The store's server did not answer in time."""


class StoreBusyError(UnavailableError):
    """The store's server has too much to do."""


class StoreRefusedError(UnavailableError):
    """The store's server and this client don't suit each other: the key is wrong, or the server too old."""
