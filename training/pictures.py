"""Draw three pictures for the folder of a trained encoder: losses.png, reconstructions.png and map.png."""

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

# Number of held-out images in reconstructions.png.
_SHOWN = 10
# Height of a thumbnail on the map, in points.
_THUMBNAIL = 22
# Minimum distance of two thumbnails, as a fraction of the map's width and height. Closer thumbnails would overlap.
_GAP = 0.045


def draw(folder: Path, encoder: Encoder, history: History, inputs: NDArray[np.float32]) -> None:
    """Draw all three pictures.

    Args:
        folder: Folder for the pictures.
        encoder: The exported encoder.
        history: The history of the training.
        inputs: Held-out inputs, (n, h, w, c) in [0, 1].
    """
    _draw_losses(folder / "losses.png", encoder.spec.name, history)
    _draw_reconstructions(folder / "reconstructions.png", encoder, inputs[:_SHOWN])
    _draw_map(folder / "map.png", encoder, inputs)


def _draw_losses(path: Path, name: str, history: History) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    epochs = range(1, len(history.loss) + 1)
    left.plot(epochs, history.train_loss, label="training images")
    left.plot(epochs, history.loss, label="held-out images")
    left.set(title=f"{name}: loss", xlabel="epoch")
    left.legend(frameon=False)
    right.plot(epochs, history.mse, color="tab:orange")
    right.set(title="reconstruction MSE, held-out images", xlabel="epoch", ylim=(0, None))
    for axes in (left, right):
        axes.axvline(history.best, color="0.8", linestyle=":", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_reconstructions(path: Path, encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    reconstructions = encoder.decode(encoder.encode(inputs))
    figure, rows = plt.subplots(
        2, len(inputs), figsize=(1.0 * len(inputs) + 1, 2.3), squeeze=False, layout="constrained"
    )
    for row, name, images in ((rows[0], "original", inputs), (rows[1], "reconstruction", reconstructions)):
        for axes, image in zip(row, images, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_map(path: Path, encoder: Encoder, inputs: NDArray[np.float32]) -> None:
    """Draw each code as a dot, by its first two principal components, and thumbnails where they do not overlap."""
    codes = encoder.encode(inputs)
    centred = codes - codes.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    positions = centred @ directions[:2].T  # (n, 2)
    figure, axes = plt.subplots(figsize=(8, 8), layout="constrained")
    axes.scatter(*positions.T, s=3, color="0.8")
    size = np.ptp(positions, axis=0)
    drawn: list[NDArray[np.float32]] = []
    for position, image in zip(positions, inputs, strict=True):
        if drawn and (np.abs(np.array(drawn) - position) / size).max(axis=1).min() < _GAP:
            continue
        drawn.append(position)
        thumbnail = OffsetImage(image.squeeze(), zoom=_THUMBNAIL / image.shape[0], cmap="gray", clim=(0, 1))
        axes.add_artist(AnnotationBbox(thumbnail, position, frameon=False))
    axes.set(title=f"{encoder.spec.name}: codes by their first two principal components", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
