"""The training loop. No labels come in here."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import optimizers
from numpy.typing import NDArray

from ingest.progress import Advance, Stages
from training.errors import CollapseError, RecipeError
from training.model import Autoencoder
from training.negatives import strange
from training.views import VIEWS

# A model whose error is above this part of the best constant answer's has learned next to nothing.
_COLLAPSED = 0.8
# It has this many steps to get below, and a code dimension this little spread (of the widest) is dead.
_PATIENCE_STEPS = 600
_DEAD = 1e-3

_HELD_OUT = 2048
"""How many held-out images the loss is followed on."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an architecture is trained: Adam, warmed up, then down a cosine to zero.

    The loss is `reconstruct` times the binary cross-entropy of what the decoder gives back, and `contrast` times the
    cross-entropy of telling, by code alone, which of a batch's views show the same image (the NT-Xent loss of
    Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", 2020).

    The article's own recipe, squared error behind a sigmoid, mostly ends in an all-black answer.

    Attributes:
        epochs: How often every training image is seen.
        batch: Images of one step.
        learning_rate: The highest it gets.
        views: Name of the invariances, one of `VIEWS`.
        reconstruct: Weight of the reconstruction.
        contrast: Weight of the contrast; 0 leaves it out.
        temperature: Sharpness of the contrast; smaller is sharper.
        strange: Weight of giving back nothing of what is like none of the data (see `training.negatives`); 0 leaves it
            out.
    """

    epochs: int
    batch: int
    learning_rate: float
    views: str = "unchanged"
    reconstruct: float = 1.0
    contrast: float = 0.0
    temperature: float = 0.2
    strange: float = 0.0


@dataclass(slots=True)
class History:
    """What each epoch came to.

    Attributes:
        train_loss: Mean loss of the epoch's steps.
        loss: Loss on held-out images, which the best epoch is chosen by.
        mse: Mean squared error of held-out images' reconstructions.
        seconds: How long it took.
        interrupted: Whether the user stopped it.
    """

    train_loss: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    mse: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    interrupted: bool = False

    @property
    def best(self) -> int:
        """The epoch, from 1, with the smallest loss on held-out images."""
        return 1 + int(np.argmin(self.loss))


def fix_seed(seed: int) -> None:
    """Make building and training give the same weights each time on the same machine."""
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
    """Train a model in place and leave it at its best epoch.

    Ctrl-C ends it early: the best so far stays.

    Args:
        model: Freshly built, after `fix_seed`.
        train: (n, h, w, c), 0 to 255; may lie on disk, only batches of it are read.
        held_out: (m, h, w, c), never trained on.
        recipe: How.
        seed: Orders the images.
        state: Folder for what is needed to go on after an interruption. Where it holds something, training goes on
            from there.
        stages: Shows how far it is.

    Raises:
        RecipeError: There are fewer images than one step takes.
        CollapseError: The error stays near that of a constant answer, or most code dimensions are dead.
    """
    if len(train) < recipe.batch or not len(held_out):
        raise RecipeError(f"expected at least {recipe.batch} images to train on and one more, got {len(train)}")
    held_out = held_out[:_HELD_OUT]
    loop = _Loop(model, recipe, len(train) // recipe.batch)
    history, best = _resumed(state, loop)
    begun = len(history.loss)
    with stages.stage("training", (recipe.epochs - begun) * loop.steps, "steps") as advance:
        try:
            for epoch in range(begun, recipe.epochs):
                _run_epoch(loop, train, held_out, np.random.default_rng([seed, epoch]), history, advance)
                if (epoch + 1) * loop.steps >= _PATIENCE_STEPS or epoch + 1 == recipe.epochs:
                    _check_collapse(model, held_out, history)
                if history.best == epoch + 1:
                    best = model.whole.get_weights()
                _save(state, loop, history, best)
                stages.say(
                    f"epoch {epoch + 1} of {recipe.epochs}: loss {history.train_loss[-1]:.4f}, "
                    f"held out {history.loss[-1]:.4f}, MSE {history.mse[-1]:.5f}"
                )
        except KeyboardInterrupt:
            if not history.loss:
                raise
            history.interrupted = True
            stages.say(f"stopped in epoch {len(history.loss) + 1}: keeping epoch {history.best}, the best so far")
    model.whole.set_weights(best)
    return history


def inputs(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return pixels, 0 to 255, as inputs, 0 to 1."""
    return pixels.astype(np.float32) / np.float32(255)


def mse(model: Autoencoder, pixels: NDArray[np.uint8]) -> float:
    """Return the mean squared error between images, (n, h, w, c), and what the model makes of them, in [0, 1]."""
    errors = [
        np.square(model.whole(inputs(batch), training=False).numpy() - inputs(batch)).mean(axis=(1, 2, 3))
        for batch in batches(pixels)
    ]
    return float(np.concatenate(errors).mean())


def constant_mse(pixels: NDArray[np.uint8]) -> float:
    """Return the mean squared error of the best constant answer, the mean image."""
    return all_black_mse(pixels) - float(np.square(pixels.mean(axis=0) / 255).mean())


def all_black_mse(pixels: NDArray[np.uint8]) -> float:
    """Return the mean squared error of black for an answer."""
    return float(np.mean([np.square(inputs(image)).mean() for image in pixels]))


def batches(pixels: NDArray[np.uint8], rows: NDArray[np.intp] | None = None) -> Iterator[NDArray[np.uint8]]:
    """Read images, (n, h, w, c), or those in `rows`, 256 at a time."""
    rows = np.arange(len(pixels)) if rows is None else rows
    for start in range(0, len(rows), 256):
        yield pixels[rows[start : start + 256]]


def _cross_entropy(images: tf.Tensor, given_back: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(keras.losses.binary_crossentropy(images, given_back))


class _Loop:
    """The model with its optimiser and the two compiled steps."""

    def __init__(self, model: Autoencoder, recipe: Recipe, steps: int) -> None:
        total = recipe.epochs * steps
        warm = min(500, total // 4)
        schedule = optimizers.schedules.CosineDecay(
            0.0, total - warm, warmup_target=recipe.learning_rate, warmup_steps=warm, alpha=0.0
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
        seen, clean = VIEWS[recipe.views](images)
        decoded = tf.concat([seen, strange(images)], 0) if recipe.strange else seen
        shown = tf.concat([decoded, VIEWS[recipe.views](images)[0]], 0) if recipe.contrast else decoded
        codes = self.model.encoder(shown, training=training)
        given_back = self.model.decoder(codes[: tf.shape(decoded)[0]], training=training)
        loss = recipe.reconstruct * _cross_entropy(clean, given_back[:count])
        if recipe.strange:
            loss += recipe.strange * _cross_entropy(tf.zeros_like(given_back[count:]), given_back[count:])
        if recipe.contrast:
            loss += recipe.contrast * self._nt_xent(tf.concat([codes[:count], codes[-count:]], 0), count)
        return loss

    def _nt_xent(self, codes: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        likeness = tf.matmul(codes, codes, transpose_b=True) / self.recipe.temperature  # (2n, 2n)
        likeness -= 1e9 * tf.eye(2 * count)  # a view is not its own partner
        partners = tf.concat([tf.range(count, 2 * count), tf.range(count)], 0)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(partners, likeness))


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
        rows = np.sort(order[start : start + loop.recipe.batch])  # in the order they lie on disk
        losses.append(float(loop.step(tf.constant(inputs(train[rows])))))
        advance(1)
    # in even parts: the loss of a small rest would count as much as a large part's
    parts = np.array_split(held_out, -(-len(held_out) // loop.recipe.batch))
    followed = [float(loop.held_out_loss(tf.constant(inputs(part)))) for part in parts]
    error = mse(loop.model, held_out)
    history.train_loss.append(float(np.mean(losses)))
    history.loss.append(float(np.mean(followed)))
    history.mse.append(error)
    history.seconds.append(time.monotonic() - begun)


def _check_collapse(model: Autoencoder, held_out: NDArray[np.uint8], history: History) -> None:
    constant = constant_mse(held_out)
    if not history.mse[-1] < _COLLAPSED * constant:
        raise CollapseError(
            f"the autoencoder collapsed: after epoch {len(history.mse)} its MSE is {history.mse[-1]:.5f}, and giving "
            f"the mean image each time gives {constant:.5f}: train longer, on more images, or with another --seed; "
            "nothing is exported"
        )
    spread = model.encoder(inputs(held_out[:512]), training=False).numpy().std(axis=0)
    dead = int((spread < _DEAD * spread.max()).sum())
    if dead > len(spread) // 2:
        raise CollapseError(
            f"the code collapsed: {dead} of its {len(spread)} numbers are the same for every image: try another "
            "--seed or a smaller learning rate; nothing is exported"
        )


def _checkpoint(loop: _Loop) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(model=loop.model.whole, optimizer=loop.optimizer)


def _save(state: Path, loop: _Loop, history: History, best: list[NDArray[np.float32]]) -> None:
    """Keep what the next run needs to go on; history.json comes last and makes the rest count."""
    state.mkdir(parents=True, exist_ok=True)
    _checkpoint(loop).write(str(state / "last"))
    np.savez(state / "best.npz", *best)
    kept = {name: getattr(history, name) for name in ("train_loss", "loss", "mse", "seconds")}
    (state / "history.json").write_text(json.dumps(kept))


def _resumed(state: Path, loop: _Loop) -> tuple[History, list[NDArray[np.float32]]]:
    if not (state / "history.json").exists():
        return History(), loop.model.whole.get_weights()
    _checkpoint(loop).read(str(state / "last")).assert_existing_objects_matched()
    with np.load(state / "best.npz") as kept:
        best = [kept[name] for name in kept.files]
    return History(**json.loads((state / "history.json").read_text())), best
