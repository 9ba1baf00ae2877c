"""Training autoencoders: the only package that imports TensorFlow.

`import training` itself does not. From Python, call `training.recipes.train_and_export`.
"""

from training.errors import CollapseError, ParityError, RecipeError, TrainingError

__all__ = ["CollapseError", "ParityError", "RecipeError", "TrainingError"]
