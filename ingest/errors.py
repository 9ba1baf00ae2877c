"""What can go wrong with sources, as further leaves of the tree in `gallery.errors`.

LookalikeError
└── StoppedError              the user stopped a load
InvalidInputError
├── SourceError               a source that is not what it should be
├── RejectedError             too many of its images are bad
└── GalleryUnsoundError       `ingest check` found something wrong
NotFoundError
└── SourceNotFoundError       no source of that name
UnavailableError
└── SourceUnavailableError    a dataset that could not be fetched
"""

from gallery.errors import InvalidInputError, LookalikeError, NotFoundError, UnavailableError


class StoppedError(LookalikeError):
    """A load was stopped by the user before its end."""


class SourceError(InvalidInputError):
    """A source's files are not what they should be."""


class RejectedError(InvalidInputError):
    """More of a source's images are bad than was allowed."""


class GalleryUnsoundError(InvalidInputError):
    """A gallery is not what its ledger, its manifest or its sources say."""


class SourceNotFoundError(NotFoundError):
    """There is no source of that name."""


class SourceUnavailableError(UnavailableError):
    """A dataset could not be fetched from anywhere."""
