"""Train an autoencoder. Labels are not used."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import optimizers
from numpy.typing import NDArray

from gallery.files import replace_file
from ingest.progress import Advance, Stages
from training.errors import CollapseError, RecipeError
from training.model import Autoencoder
from training.negatives import out_of_distribution
from training.views import VIEWS

# Maximum MSE, as a fraction of the MSE of answering every image with the mean image. A model with a larger MSE has
# collapsed: it has learned next to nothing.
_COLLAPSED = 0.8
# Number of training steps before the first check for a collapse, so that a slow start is not mistaken for a collapse.
_PATIENCE_STEPS = 600
# A code dimension is dead if its standard deviation is less than this fraction of the largest standard deviation of any
# dimension.
_DEAD = 1e-3
# Number of training steps that are timed to estimate the duration of a training.
_REHEARSED = 4
# Number of held-out images on which the loss is measured after each epoch: enough for a stable mean, few enough
# to be quick.
_MEASURED = 2048


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of a training.

    The optimiser is Adam. Its learning rate rises linearly at first, and then decays to 0 along a cosine. The loss is a
    weighted sum of up to three terms:

    - the binary cross-entropy between images and their reconstructions
    - the NT-Xent loss, which is small if the codes of two random views of an image are closer to each other than to the
      codes of other images in the batch (Chen et al., "A Simple Framework for Contrastive Learning of Visual
      Representations", 2020)
    - the binary cross-entropy between black and the reconstructions of out-of-distribution images

    The article behind the architecture `seed` (see docs/training.md) uses squared error instead of cross-entropy. With
    squared error, most trainings ended with a model that answers every image with black.

    Attributes:
        epochs: Passes over the training images.
        batch: Number of images per step.
        learning_rate: Peak learning rate.
        views: Name of the random augmentations, a key of `VIEWS`.
        reconstruct: Weight of the reconstruction loss.
        decoded: Fraction of each batch that is reconstructed. A smaller fraction makes a step cheaper.
        contrast: Weight of the NT-Xent loss; 0 to omit this loss.
        temperature: Temperature of the NT-Xent loss. A lower temperature gives more weight to the most similar images.
        negatives: Weight of the loss on out-of-distribution images (see `training.negatives`); 0 to omit this loss.
        patience: Number of epochs without a smaller loss on held-out images after which training ends; 0 for no limit.
        local_whitening: Whether the codes are whitened locally after the training (see `training.whiten`).
    """

    epochs: int
    batch: int
    learning_rate: float
    views: str = "unchanged"
    reconstruct: float = 1.0
    decoded: float = 1.0
    contrast: float = 0.0
    temperature: float = 0.2
    negatives: float = 0.0
    patience: int = 0
    local_whitening: bool = False


@dataclass(slots=True)
class History:
    """Losses, errors and durations of the epochs so far, one number per epoch in each list.

    Attributes:
        train_loss: Mean loss over the steps of the epoch.
        loss: Loss on held-out images after the epoch. The weights of the epoch with the smallest loss are kept.
        mse: Mean squared error of the reconstructions of held-out images after the epoch.
        seconds: Duration of the epoch.
    """

    train_loss: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    mse: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def best(self) -> int:
        """The epoch with the smallest loss on held-out images, counted from 1."""
        return 1 + int(np.argmin(self.loss))


def fix_seed(seed: int) -> None:
    """Make building and training a model reproducible.

    The same seed gives the same weights on the same machine with the same number of CPU cores, however busy they are.
    With another processor or another number of cores, results are rounded differently.

    This function also resets the global state of Keras, which numbers the layers of all models in a process. Layer
    names are part of the exported files. Without the reset, a second training would get other layer names, and so
    another fingerprint.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def fit(
    model: Autoencoder,
    train: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    recipe: Recipe,
    seed: int,
    state: Path,
    stages: Stages,
) -> History:
    """Train a model. Afterwards, the model has the weights of its best epoch.

    Ctrl-C ends the training early and keeps the best epoch so far.

    Args:
        model: A new model, built after a call of `fix_seed`.
        train: Images to train on, (n, h, w, c) uint8, 0 to 255. The array may be mapped from a file, because only one
            batch is read at a time.
        held_out: Images to measure the loss on, (m, h, w, c) uint8, 0 to 255. They are not trained on.
        recipe: Settings of the training.
        seed: Seed for the order of the images.
        state: Folder for checkpoints, created if missing. If it has a checkpoint, the training resumes from there.
        stages: Shows the progress.

    Returns:
        The history of the training, including epochs before an interruption.

    Raises:
        RecipeError: `train` has fewer images than one batch, or `held_out` is empty.
        CollapseError: The model's error stays near that of a constant answer, or most code dimensions are dead.
        KeyboardInterrupt: Ctrl-C was pressed before the end of the first epoch.
    """
    if len(train) < recipe.batch or not len(held_out):
        raise RecipeError(
            f"expected at least {recipe.batch} images to train on and one to hold out, "
            f"got {len(train)} and {len(held_out)}"
        )
    held_out = held_out[:_MEASURED]
    loop = _Loop(model, recipe, len(train) // recipe.batch)
    history, best = _restore(state, loop)
    first = len(history.loss)
    with stages.stage("training", (recipe.epochs - first) * loop.steps, "step") as advance:
        try:
            for epoch in range(first, recipe.epochs):
                _run_epoch(loop, train, held_out, np.random.default_rng([seed, epoch]), history, advance)
                if (epoch + 1) * loop.steps >= _PATIENCE_STEPS or epoch + 1 == recipe.epochs:
                    _check_collapse(model, held_out, history)
                if history.best == epoch + 1:
                    best = model.whole.get_weights()
                _save(state, loop, history, best)
                stages.say(
                    f"epoch {epoch + 1} of {recipe.epochs}: loss {history.train_loss[-1]:.4f}, "
                    f"held-out loss {history.loss[-1]:.4f}, MSE {history.mse[-1]:.5f}"
                )
                if recipe.patience and epoch + 1 - history.best >= recipe.patience:
                    stages.say(f"no better since epoch {history.best}: keeping it")
                    break
        except KeyboardInterrupt:
            if not history.loss:
                raise
            stages.say(f"stopped in epoch {len(history.loss) + 1}: keeping epoch {history.best}, the best so far")
    model.whole.set_weights(best)
    return history


def seconds_per_step(model: Autoencoder, train: NDArray[np.uint8], recipe: Recipe) -> float:
    """Measure how long a step of training takes, on a few steps that leave the model as it is.

    Args:
        model: Freshly built.
        train: (n, h, w, c) uint8, 0 to 255.
        recipe: Settings of the training.
    """
    weights = model.whole.get_weights()
    loop = _Loop(model, recipe, len(train) // recipe.batch)
    images = tf.constant(inputs(train[: recipe.batch]))
    loop.step(images)  # compiles it
    begun = time.monotonic()
    for _ in range(_REHEARSED):
        float(loop.step(images))
    model.whole.set_weights(weights)
    return (time.monotonic() - begun) / _REHEARSED


def inputs(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert uint8 pixels, 0 to 255, into float32 inputs, 0 to 1, of the same shape."""
    return pixels.astype(np.float32) / np.float32(255)


def mse(model: Autoencoder, pixels: NDArray[np.uint8]) -> float:
    """Return the mean squared error of a model's reconstructions.

    Args:
        model: The autoencoder.
        pixels: (n, h, w, c) uint8, 0 to 255.

    Returns:
        The mean over all images, computed on values in [0, 1].
    """
    errors = [
        np.square(model.whole(inputs(batch), training=False).numpy() - inputs(batch)).mean(axis=(1, 2, 3))
        for batch in batches(pixels)
    ]
    return float(np.concatenate(errors).mean())


def constant_mse(pixels: NDArray[np.uint8]) -> float:
    """Return the mean squared error of a model that would answer every image with the mean image.

    Args:
        pixels: The images, (n, h, w, c) uint8, 0 to 255.
    """
    return all_black_mse(pixels) - float(np.square(pixels.mean(axis=0) / 255).mean())


def all_black_mse(pixels: NDArray[np.uint8]) -> float:
    """Return the mean squared error of a model that would answer every image with black.

    Args:
        pixels: The images, (n, h, w, c) uint8, 0 to 255.
    """
    return float(np.mean([np.square(inputs(image)).mean() for image in pixels]))


def batches(pixels: NDArray[np.uint8], rows: NDArray[np.intp] | None = None) -> Iterator[NDArray[np.uint8]]:
    """Yield images in batches of up to 256.

    Args:
        pixels: The images, (n, h, w, c).
        rows: Indices of the images to yield; None for all.
    """
    rows = np.arange(len(pixels)) if rows is None else rows
    for start in range(0, len(rows), 256):
        yield pixels[rows[start : start + 256]]


def _cross_entropy(images: tf.Tensor, reconstructions: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(keras.losses.binary_crossentropy(images, reconstructions))


class _Loop:
    """A model with its optimiser and two compiled functions: the training step and the held-out loss."""

    def __init__(self, model: Autoencoder, recipe: Recipe, steps: int) -> None:
        total = recipe.epochs * steps
        warmup = min(500, total // 4)
        schedule = optimizers.schedules.CosineDecay(
            0.0, total - warmup, warmup_target=recipe.learning_rate, warmup_steps=warmup, alpha=0.0
        )
        self.model = model
        self.recipe = recipe
        self.steps = steps
        self.optimizer = optimizers.Adam(schedule)
        self.optimizer.build(model.whole.trainable_variables)
        self.step = tf.function(self._step)
        self.held_out_loss = tf.function(lambda images: self._loss(images, training=False))

    def _step(self, images: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = self._loss(images, training=True)
        variables = self.model.whole.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def _loss(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        recipe, count = self.recipe, tf.shape(images)[0]
        views = VIEWS[recipe.views]
        seen, clean = views.view(images)
        negatives = out_of_distribution(images) if recipe.negatives else images[:0]
        partners = views.partner(images) if recipe.contrast else images[:0]
        parts = (seen, partners, negatives)
        codes = self.model.encoder(tf.concat(parts, 0), training=training)
        of_seen, of_partners, of_negatives = tf.split(codes, [tf.shape(part)[0] for part in parts])
        decoded = tf.cast(tf.math.ceil(recipe.decoded * tf.cast(count, tf.float32)), tf.int32)
        reconstructions = self.model.decoder(tf.concat([of_seen[:decoded], of_negatives], 0), training=training)
        loss = recipe.reconstruct * _cross_entropy(clean[:decoded], reconstructions[:decoded])
        if recipe.negatives:
            loss += recipe.negatives * _cross_entropy(tf.zeros_like(negatives), reconstructions[decoded:])
        if recipe.contrast:
            loss += recipe.contrast * self._nt_xent(of_seen, of_partners)
        return loss

    def _nt_xent(self, codes: tf.Tensor, partners: tf.Tensor) -> tf.Tensor:
        """Return the NT-Xent loss of the codes of n images.

        Args:
            codes: Codes of the images' first views, (n, 128), of length 1.
            partners: Codes of the images' second views, of the same form.
        """
        count, codes = tf.shape(codes)[0], tf.concat([codes, partners], 0)  # (2n, 128)
        similarities = tf.matmul(codes, codes, transpose_b=True) / self.recipe.temperature  # (2n, 2n)
        similarities -= 1e9 * tf.eye(2 * count)  # a view is not its own partner
        rows = tf.concat([tf.range(count, 2 * count), tf.range(count)], 0)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(rows, similarities))


def _run_epoch(
    loop: _Loop,
    train: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    chance: np.random.Generator,
    history: History,
    advance: Advance,
) -> None:
    begun = time.monotonic()
    order = chance.permutation(len(train))
    losses = []
    for start in range(0, loop.steps * loop.recipe.batch, loop.recipe.batch):
        rows = np.sort(order[start : start + loop.recipe.batch])  # read in the order on disk, for fewer seeks
        losses.append(float(loop.step(tf.constant(inputs(train[rows])))))
        advance(1)
    # the parts have equal sizes, because the mean below gives each part the same weight
    parts = np.array_split(held_out, -(-len(held_out) // loop.recipe.batch))
    held_out_losses = [float(loop.held_out_loss(tf.constant(inputs(part)))) for part in parts]
    error = mse(loop.model, held_out)
    history.train_loss.append(float(np.mean(losses)))
    history.loss.append(float(np.mean(held_out_losses)))
    history.mse.append(error)
    history.seconds.append(time.monotonic() - begun)


def _check_collapse(model: Autoencoder, held_out: NDArray[np.uint8], history: History) -> None:
    constant = constant_mse(held_out)
    if not history.mse[-1] < _COLLAPSED * constant:
        raise CollapseError(
            f"the autoencoder collapsed: after epoch {len(history.mse)}, expected an MSE below "
            f"{_COLLAPSED * constant:.5f} ({_COLLAPSED} times that of the mean image), got {history.mse[-1]:.5f}: "
            "train longer, on more images or with another --seed; nothing is exported"
        )
    spread = model.encoder(inputs(held_out[:512]), training=False).numpy().std(axis=0)
    dead = int((spread < _DEAD * spread.max()).sum())
    if dead > len(spread) // 2:
        raise CollapseError(
            f"the code collapsed: {dead} of its {len(spread)} numbers are the same for every image: train with "
            "another --seed or on more varied images; nothing is exported"
        )


def _checkpoint(loop: _Loop) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(model=loop.model.whole, optimizer=loop.optimizer)


def _save(state: Path, loop: _Loop, history: History, best: list[NDArray[np.float32]]) -> None:
    """Write a checkpoint. Until history.json, which is written last, has its epoch, the previous one is restored."""
    epoch = len(history.loss)
    state.mkdir(parents=True, exist_ok=True)
    _checkpoint(loop).write(str(state / f"last-{epoch}"))
    np.savez(state / f"best-{epoch}.npz", *best)
    figures = {name: getattr(history, name) for name in ("train_loss", "loss", "mse", "seconds")}
    replace_file(state / "history.json", json.dumps(figures).encode())
    for path in (*state.glob("last-*"), *state.glob("best-*")):
        if path.is_dir():  # TensorFlow's temporary folder, if a training was killed while it wrote a checkpoint
            shutil.rmtree(path)
        elif path.name.partition(".")[0] not in (f"last-{epoch}", f"best-{epoch}"):
            path.unlink()


def _restore(state: Path, loop: _Loop) -> tuple[History, list[NDArray[np.float32]]]:
    """Load the checkpoint, if there is one, into the loop.

    Returns:
        The history so far and the weights of the best epoch. Without a checkpoint: an empty history and the current
        weights.
    """
    if not (state / "history.json").exists():
        return History(), loop.model.whole.get_weights()
    history = History(**json.loads((state / "history.json").read_text()))
    epoch = len(history.loss)
    if not (state / f"best-{epoch}.npz").exists():
        raise RecipeError(f"{state}: expected a checkpoint of this release, got an earlier one: train without --resume")
    _checkpoint(loop).read(str(state / f"last-{epoch}")).assert_existing_objects_matched()
    with np.load(state / f"best-{epoch}.npz") as file:
        best = [file[name] for name in file.files]
    return history, best
