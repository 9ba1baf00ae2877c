"""What a training came to, as pictures beside the encoder: losses.png, reconstructions.png, map.png."""

from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

from encoder_service.encoder import Encoder
from training.fit import History

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import MaxNLocator

_SHOWN = 10
_THUMBNAIL = 22  # points
_APART = 0.045  # of the way from the map's first code to its last: closer than that, thumbnails would cover each other


def draw(folder: Path, encoder: Encoder, history: History, inputs: NDArray[np.float32]) -> None:
    """Draw all three.

    Args:
        folder: Where to.
        encoder: The trained one.
        history: What each epoch came to.
        inputs: (n, h, w, c) in [0, 1], never trained on.
    """
    _draw_losses(folder / "losses.png", encoder.spec.name, history)
    _draw_reconstructions(folder / "reconstructions.png", encoder, inputs[:_SHOWN])
    _draw_map(folder / "map.png", encoder, inputs)


def _draw_losses(path: Path, name: str, history: History) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    epochs = range(1, len(history.loss) + 1)
    left.plot(epochs, history.train_loss, label="trained on")
    left.plot(epochs, history.loss, label="held out")
    left.set(title=f"{name}: loss", xlabel="epoch")
    left.legend(frameon=False)
    right.plot(epochs, history.mse, color="tab:orange")
    right.set(title="mean squared error of reconstructions, held out", xlabel="epoch", ylim=(0, None))
    for axes in (left, right):
        axes.axvline(history.best, color="0.8", linestyle=":", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))  # epochs are whole
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_reconstructions(path: Path, encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    given_back = encoder.decode(encoder.encode(inputs))
    figure, rows = plt.subplots(
        2, len(inputs), figsize=(1.0 * len(inputs) + 1, 2.3), squeeze=False, layout="constrained"
    )
    for row, name, images in ((rows[0], "original", inputs), (rows[1], "from its code", given_back)):
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_map(path: Path, encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    """Place images by the two directions in which their codes spread most: dots, and of those with room the picture."""
    codes = encoder.encode(inputs)
    centred = codes - codes.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:2].T  # (n, 2)
    figure, axes = plt.subplots(figsize=(8, 8), layout="constrained")
    axes.scatter(*places.T, s=3, color="0.8")
    size = np.ptp(places, axis=0)
    drawn: list[NDArray[np.float32]] = []
    for place, image in zip(places, inputs, strict=True):
        if drawn and (np.abs(np.array(drawn) - place) / size).max(axis=1).min() < _APART:
            continue
        drawn.append(place)
        thumbnail = OffsetImage(image.squeeze(), zoom=_THUMBNAIL / image.shape[0], cmap="gray", clim=(0, 1))
        axes.add_artist(AnnotationBbox(thumbnail, place, frameon=False))
    axes.set(title=f"{encoder.spec.name}: codes by their two principal components", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
