"""Measure the quality of codes: `python -m benchmarks.quality` (or `make quality`).

For MNIST and Fashion-MNIST, this prints precision@5 and the reconstruction error, and draws ten queries with five hits
each into docs/. Precision@5 is the mean share of a query's five nearest images that have the query's label, with 10,000
test queries against 60,000 training images, by exact search. The column `expand 4` has the same for searches that
average the query's code with those of its four nearest images and search again. Labels are used only here. They were
not used to train or to choose the shipped encoders.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from encoder_service.encoder import Encoder, load_encoder
from encoder_service.images import normalise
from encoder_service.searcher import Searcher, SearchRequest
from gallery import Entry, GallerySpec, Hit, Query
from gallery.exact import ExactGallery
from ingest.sources import open_source

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# Encoders to measure on each dataset. The figure shows the hits of the last encoder.
_ENCODERS = {"mnist": ("seed", "mnist"), "fashion-mnist": ("fashion",)}
# Number of principal components for the comparison with PCA.
_PCA = {"mnist": 50, "fashion-mnist": 128}
_FIGURES = Path(__file__).parents[1] / "docs"
# Number of queries in a figure, one per label.
_SHOWN = 10
# Number of nearest images whose codes are averaged with the query's before the second search.
_EXPAND = 4


class Split:
    """The inputs and labels of one part of a dataset.

    Attributes:
        inputs: (n, 28, 28, 1) float32 in [0, 1].
        labels: One label per input.
    """

    def __init__(self, dataset: str, part: str) -> None:
        """Read the part `train` or `test` of a dataset."""
        items = list(open_source(dataset, part))
        self.inputs = normalise([item.image() for item in items], (28, 28, 1))
        self.labels = [item.label or "" for item in items]

    @property
    def pixels(self) -> NDArray[np.float32]:
        """The inputs as rows, (n, 784)."""
        return self.inputs.reshape(len(self.inputs), -1)


def main() -> None:
    """Print a table and draw a figure for each dataset."""
    for dataset, names in _ENCODERS.items():
        train, test = Split(dataset, "train"), Split(dataset, "test")
        print(f"{dataset}: {len(test.labels):,} test queries against {len(train.labels):,} train images, exact search")
        print(f"{'codes':<14}{'numbers':>8}{'precision@5':>13}{f'expand {_EXPAND}':>10}{'test MSE':>10}")
        _print("raw pixels", precision(_search(train, train.pixels, test.pixels), test), 784)
        pca = PCA(_PCA[dataset], random_state=0).fit(train.pixels)
        reduced = [pca.transform(split.pixels).astype(np.float32) for split in (train, test)]
        mse = float(np.square(pca.inverse_transform(reduced[1]) - test.pixels).mean())
        _print(f"PCA-{_PCA[dataset]}", precision(_search(train, *reduced), test), _PCA[dataset], mse=mse)
        for name in names:
            _measure(load_encoder(name), train, test, pictured=name == names[-1])
        print(f"{'all black':<14}{'':>8}{'':>13}{'':>10}{np.square(test.inputs).mean():>10.5f}\n")


def precision(hit_lists: Iterable[Sequence[Hit]], test: Split) -> float:
    """Return precision@5 of the hits of each test query."""
    matches = [hit.label == label for hits, label in zip(hit_lists, test.labels, strict=True) for hit in hits]
    return sum(matches) / len(matches)


def _measure(encoder: Encoder, train: Split, test: Split, pictured: bool) -> None:
    codes, queries = encoder.encode(train.inputs), encoder.encode(test.inputs)
    mse = float(encoder.reconstruction_errors(test.inputs, queries).mean())
    plain = precision(_search(train, codes, queries), test)
    expanded = precision(_search_expanded(encoder, train, codes, queries), test)
    _print(encoder.spec.name, plain, encoder.spec.code_size, expanded, mse)
    if pictured:
        _draw_hits(encoder.spec.name, train, codes, test, queries)


def _draw_hits(name: str, train: Split, codes: NDArray[np.float32], test: Split, queries: NDArray[np.float32]) -> None:
    shown = [test.labels.index(label) for label in sorted(set(test.labels))][:_SHOWN]
    figure, rows = plt.subplots(_SHOWN, 6, figsize=(7.2, 13), layout="constrained")
    for row, query, hits in zip(rows, shown, _search(train, codes, queries[shown]), strict=True):
        _draw(row[0], test.inputs[query], f"query: {test.labels[query]}")
        for axes, hit in zip(row[1:], hits, strict=True):
            _draw(axes, train.inputs[int(hit.key)], f"{hit.label}  {hit.distance:.2f}")
    figure.savefig(_FIGURES / f"hits-{name}.png", dpi=72)
    plt.close(figure)


def _draw(axes: plt.Axes, image: NDArray[np.float32], title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=1)
    axes.set_title(title, fontsize=9, pad=3)
    axes.set_axis_off()


def _search(train: Split, codes: NDArray[np.float32], queries: NDArray[np.float32]) -> list[list[Hit]]:
    gallery = _gallery(GallerySpec("quality", "", "", codes.shape[1]), train, codes)
    return gallery.search_batch([Query(query) for query in queries])


def _search_expanded(
    encoder: Encoder, train: Split, codes: NDArray[np.float32], queries: NDArray[np.float32]
) -> list[Sequence[Hit]]:
    spec = GallerySpec("quality", encoder.spec.name, encoder.spec.fingerprint, encoder.spec.code_size)
    searcher = Searcher(encoder, _gallery(spec, train, codes))
    return [result.hits for result in searcher.search_batch([SearchRequest(code, expand=_EXPAND) for code in queries])]


def _gallery(spec: GallerySpec, train: Split, codes: NDArray[np.float32]) -> ExactGallery:
    gallery = ExactGallery(spec)
    gallery.upsert(
        [Entry(str(i), code, label) for i, (code, label) in enumerate(zip(codes, train.labels, strict=True))]
    )
    return gallery


def _print(
    name: str, precision_at_5: float, numbers: int, expanded: float | None = None, mse: float | None = None
) -> None:
    after = f"{'' if expanded is None else f'{expanded:.4f}':>10}{'' if mse is None else f'{mse:.5f}':>10}"
    print(f"{name:<14}{numbers:>8}{precision_at_5:>13.4f}{after}".rstrip(), flush=True)


if __name__ == "__main__":
    main()
