"""The errors of training. They extend the classes of `gallery.errors`.

LookalikeError
└── TrainingError         the training ended without a usable encoder
    ├── CollapseError     the model gives the same answer for every image
    └── ParityError       the exported files give other results than the trained model
InvalidInputError
└── RecipeError           the architecture is unknown, or there are too few images
"""

from gallery.errors import InvalidInputError, LookalikeError


class RecipeError(InvalidInputError):
    """The requested training is impossible, for example because there are too few images."""


class TrainingError(LookalikeError):
    """The training ended without a usable encoder. Nothing is exported."""

    exit_code = 3


class CollapseError(TrainingError):
    """The model has learned to give the same answer for every image. Nothing is exported."""


class ParityError(TrainingError):
    """The exported files would give other results than the trained model. Nothing is exported."""
