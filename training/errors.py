"""What can go wrong in training, as further leaves of the tree in `gallery.errors`.

InvalidInputError
├── RecipeError       no such architecture, or too little to train on
├── CollapseError     the model answers the same for every image
└── ParityError       the exported files don't give what the trained model gives
"""

from gallery.errors import InvalidInputError


class RecipeError(InvalidInputError):
    """The training that was asked for can't be done."""


class CollapseError(InvalidInputError):
    """The model learned to give the same answer for every image; nothing is exported."""


class ParityError(InvalidInputError):
    """The exported files don't give the trained model's codes; nothing is exported."""
