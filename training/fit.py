"""The training loop. No labels come in here."""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf
from keras import optimizers
from numpy.typing import NDArray

from ingest.progress import Advance, Stages
from training.errors import CollapseError, RecipeError
from training.model import Autoencoder

# A model whose error is above this part of the all-black answer's has learned next to nothing.
_COLLAPSED = 0.5


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an architecture is trained: Adam on binary cross-entropy, warmed up, then down a cosine to zero.

    The article's own recipe, squared error behind a sigmoid, mostly ends in an all-black answer.

    Attributes:
        epochs: How often every training image is seen.
        batch: Images of one step.
        learning_rate: The highest it gets.
    """

    epochs: int
    batch: int
    learning_rate: float


def fit(
    model: Autoencoder,
    train: NDArray[np.float32],
    test: NDArray[np.float32],
    recipe: Recipe,
    stages: Stages,
) -> dict[str, float]:
    """Train a model in place.

    Args:
        model: Freshly built, after `fix_seed`.
        train: (n, h, w, c) in [0, 1].
        test: (m, h, w, c) in [0, 1], never trained on.
        recipe: How.
        stages: Shows how far it is.

    Returns:
        "train_loss" of the last epoch, "test_mse", and "all_black_mse", which answering black would give.

    Raises:
        RecipeError: There are fewer images than one step takes.
        CollapseError: The test error is not well under that of an all-black answer.
    """
    if len(train) < recipe.batch or not len(test):
        raise RecipeError(f"expected at least {recipe.batch} images to train on and one to test, got {len(train)}")
    steps = -(-len(train) // recipe.batch)
    model.whole.compile(optimizers.Adam(_schedule(recipe, steps)), "binary_crossentropy")
    with stages.stage("training", recipe.epochs * steps, "steps") as advance:
        watch = _Watch(model, test, recipe.epochs, stages, advance)
        history = model.whole.fit(
            train, train, batch_size=recipe.batch, epochs=recipe.epochs, verbose=0, callbacks=[watch]
        )
    metrics = {
        "train_loss": float(history.history["loss"][-1]),
        "test_mse": mse(model, test),
        "all_black_mse": float(np.mean(np.square(test))),
    }
    if not metrics["test_mse"] < _COLLAPSED * metrics["all_black_mse"]:
        raise CollapseError(
            f"the autoencoder collapsed: its test MSE is {metrics['test_mse']:.5f}, and answering black gives "
            f"{metrics['all_black_mse']:.5f}: train longer, on more images, or with another --seed; nothing is exported"
        )
    return metrics


def fix_seed(seed: int) -> None:
    """Make building and training give the same weights each time on the same machine."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def mse(model: Autoencoder, inputs: NDArray[np.float32]) -> float:
    """Return the mean squared error between inputs, (n, h, w, c), and what the model makes of them."""
    return float(np.mean(np.square(model.whole.predict(inputs, batch_size=1024, verbose=0) - inputs)))


def _schedule(recipe: Recipe, steps: int) -> optimizers.schedules.LearningRateSchedule:
    total = recipe.epochs * steps
    warm = min(300, total // 4)
    return optimizers.schedules.CosineDecay(
        0.0, total - warm, warmup_target=recipe.learning_rate, warmup_steps=warm, alpha=0.0
    )


class _Watch(keras.callbacks.Callback):
    def __init__(
        self, model: Autoencoder, test: NDArray[np.float32], epochs: int, stages: Stages, advance: Advance
    ) -> None:
        super().__init__()
        self._autoencoder, self._test, self._epochs = model, test, epochs
        self._stages, self._advance = stages, advance

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._advance(1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        error = mse(self._autoencoder, self._test)
        loss = (logs or {}).get("loss", float("nan"))
        self._stages.say(f"epoch {epoch + 1} of {self._epochs}: loss {loss:.5f}, test MSE {error:.5f}")
