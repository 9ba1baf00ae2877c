"""How good the codes are: `python -m benchmarks.quality` (or `make quality`) prints precision@5 and test MSE.

Precision@5 is the mean part of a query's five nearest that have its label; 10,000 test queries against 60,000 train
images, compared exactly. Labels are used here alone, never in training.
"""

import numpy as np
from numpy.typing import NDArray

from encoder_service.encoder import MODELS, Encoder
from encoder_service.images import normalise
from gallery import Entry, GallerySpec, Query
from gallery.exact import ExactGallery
from ingest.sources import open_source

_NEIGHBOURS = 5


def main() -> None:
    """Print the table."""
    train_inputs, train_labels = _split("train")
    test_inputs, test_labels = _split("test")
    print(f"MNIST: {len(test_inputs):,} test queries against {len(train_inputs):,} train images, exact search")
    print(f"{'codes':<12}{'numbers':>8}{'precision@5':>13}{'test MSE':>10}")
    raw = precision(_flat(train_inputs), train_labels, _flat(test_inputs), test_labels)
    print(f"{'raw pixels':<12}{784:>8}{raw:>13.4f}{'':>10}")
    for folder in sorted(path.parent for path in MODELS.glob("*/encoder.json")):
        encoder = Encoder(folder)
        train, test = encoder.encode(train_inputs), encoder.encode(test_inputs)
        mse = float(np.mean(np.square(encoder.decode(test) - test_inputs)))
        found = precision(train, train_labels, test, test_labels)
        print(f"{encoder.spec.name:<12}{encoder.spec.code_size:>8}{found:>13.4f}{mse:>10.5f}")
    print(f"{'all black':<12}{'':>8}{'':>13}{np.mean(np.square(test_inputs)):>10.5f}")


def precision(
    codes: NDArray[np.float32], labels: list[str], queries: NDArray[np.float32], query_labels: list[str]
) -> float:
    """Return precision@5 of queries, (m, size), against codes, (n, size)."""
    gallery = ExactGallery(GallerySpec("quality", "", "", codes.shape[1]))
    gallery.upsert([Entry(str(i), code, label) for i, (code, label) in enumerate(zip(codes, labels, strict=True))])
    answers = gallery.search_batch([Query(query) for query in queries])
    right = [
        hit.label == label for hits, label in zip(answers, query_labels, strict=True) for hit in hits[:_NEIGHBOURS]
    ]
    return sum(right) / len(right)


def _split(split: str) -> tuple[NDArray[np.float32], list[str]]:
    items = list(open_source("mnist", split))
    return normalise([item.image for item in items], (28, 28, 1)), [item.label for item in items]


def _flat(inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    return inputs.reshape(len(inputs), -1)


if __name__ == "__main__":
    main()
