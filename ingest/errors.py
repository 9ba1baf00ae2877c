"""The errors of sources and loads, as further leaves of the tree in `gallery.errors`.

LookalikeError
├── StoppedError              the user stopped a load
└── GalleryUnsoundError       `ingest check` found a damaged or incomplete gallery
InvalidInputError
├── SourceError               a source of another form than expected, or with damaged files
└── RejectedError             too many images of a source are bad or have disappeared
NotFoundError
└── SourceNotFoundError       no source has this name
UnavailableError
└── SourceUnavailableError    a dataset that could not be fetched
"""

from gallery.errors import InvalidInputError, LookalikeError, NotFoundError, UnavailableError


class StoppedError(LookalikeError):
    """The user stopped a command before its end."""

    exit_code = 130  # 128 + SIGINT, as a shell reports a command that was ended by Ctrl-C


class GalleryUnsoundError(LookalikeError):
    """A gallery does not match its ledger, its manifest or its sources."""

    exit_code = 3


class SourceError(InvalidInputError):
    """A source has another form than expected, or its files are damaged."""


class RejectedError(InvalidInputError):
    """Too many images of a source are bad or have disappeared."""


class SourceNotFoundError(NotFoundError):
    """No dataset, file or folder has the name of the source."""


class SourceUnavailableError(UnavailableError):
    """A dataset could not be fetched in any of the ways that are known."""
