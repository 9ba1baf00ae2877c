"""What can go wrong with sources, as further leaves of the tree in `gallery.errors`.

InvalidInputError
└── SourceError               a source that is not what it should be
NotFoundError
└── SourceNotFoundError       no source of that name
UnavailableError
└── SourceUnavailableError    a dataset that could not be fetched
"""

from gallery.errors import InvalidInputError, NotFoundError, UnavailableError


class SourceError(InvalidInputError):
    """A source's files are not what they should be."""


class SourceNotFoundError(NotFoundError):
    """There is no source of that name."""


class SourceUnavailableError(UnavailableError):
    """A dataset could not be fetched from anywhere."""
