"""Training autoencoders: the only package that imports TensorFlow.

`import training` itself does not: `train_and_export` is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from training.errors import CollapseError, ParityError, RecipeError, TrainingError

if TYPE_CHECKING:
    from training.recipes import train_and_export

__all__ = ["CollapseError", "ParityError", "RecipeError", "TrainingError", "train_and_export"]


def __getattr__(name: str) -> Any:
    """Import `train_and_export`, and with it TensorFlow, on first use."""
    if name != "train_and_export":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from training.recipes import train_and_export

    return train_and_export
