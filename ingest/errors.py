"""The errors of sources and loads, as further leaves of the tree in `gallery.errors`.

LookalikeError
├── StoppedError              the user stopped a load
└── GalleryUnsoundError       `ingest check` found something wrong
InvalidInputError
├── SourceError               a source that is not what it should be
└── RejectedError             too many bad images in a source
NotFoundError
└── SourceNotFoundError       no source of that name
UnavailableError
└── SourceUnavailableError    a dataset that could not be fetched
"""

from gallery.errors import InvalidInputError, LookalikeError, NotFoundError, UnavailableError


class StoppedError(LookalikeError):
    """The user stopped a load before its end."""

    exit_code = 130  # 128 + SIGINT, as a shell reports a command that was ended by Ctrl-C


class GalleryUnsoundError(LookalikeError):
    """A gallery does not match its ledger, its manifest or its sources."""

    exit_code = 3


class SourceError(InvalidInputError):
    """A source's files are not what they should be."""


class RejectedError(InvalidInputError):
    """More of a source's images are bad than the user allows."""


class SourceNotFoundError(NotFoundError):
    """No dataset, file or folder has the name of the source."""


class SourceUnavailableError(UnavailableError):
    """A dataset could not be fetched from anywhere."""
