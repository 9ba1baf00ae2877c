"""Train autoencoders. No other package imports TensorFlow.

`import training` is fast, because it loads only the errors. `training.recipes.train_and_export` trains an encoder, and
importing `training.recipes` loads TensorFlow.
"""

from training.errors import CollapseError, ParityError, RecipeError, TrainingError

__all__ = ["CollapseError", "ParityError", "RecipeError", "TrainingError"]
