"""Figures of an evaluation."""

import numpy as np
import pytest

from encoder_service.encoder import Encoder
from gallery import Entry, GallerySpec
from gallery.exact import ExactGallery
from ingest.errors import SourceError
from ingest.evaluate import Evaluation, evaluate
from ingest.progress import Stages


def on_a_line(labels: str, encoder: Encoder) -> ExactGallery:
    """Return a gallery whose codes lie on a line, each about one step from the next, so that distances are plain."""
    gallery = ExactGallery(GallerySpec("line", encoder.spec.name, encoder.spec.fingerprint, 128))
    codes = np.zeros((len(labels), 128), np.float32)
    codes[:, 0] = np.arange(len(labels)) + np.arange(len(labels)) ** 2 / 1000
    gallery.upsert([Entry(f"k{i}", code, label) for i, (code, label) in enumerate(zip(codes, labels, strict=True))])
    return gallery


def evaluated(labels: str, encoder: Encoder, sample: int | None = None) -> Evaluation:
    return evaluate(on_a_line(labels, encoder), encoder, None, sample, Stages())


def test_the_figures_are_those_computed_by_hand(encoder: Encoder) -> None:
    # the first a has hits a b a b b; precision@k at its right ranks: 1/1, 2/3
    answer = evaluated("aababb", encoder).answered[0]
    assert answer.right == [True, False, True, False, False]
    assert answer.average_precision == pytest.approx((1 + 2 / 3) / 5)


def test_one_label_everywhere_is_perfect(encoder: Encoder) -> None:
    figures = evaluated("a" * 20, encoder).as_dict()
    assert figures["precision_at_1"] == figures["precision_at_5"] == figures["map_at_5"] == figures["recall_at_5"] == 1


def test_a_query_never_answers_itself(encoder: Encoder) -> None:
    for answer in evaluated("abababab", encoder).answered:
        assert answer.query.key not in [hit.key for hit in answer.hits]


def test_a_sample_is_spread_over_the_queries(encoder: Encoder) -> None:
    evaluation = evaluated("a" * 50 + "b" * 50, encoder, sample=60)
    assert evaluation.as_dict()["query_count"] == 60
    assert [answer.query.label for answer in evaluation.answered].count("b") == 30


def test_the_worst_come_first(encoder: Encoder) -> None:
    assert evaluated("aaaaaaaaaabaaaaaaaaaa", encoder).worst[0].query.label == "b"


def test_without_labels_there_is_nothing_to_evaluate(encoder: Encoder) -> None:
    gallery = ExactGallery(GallerySpec("plain", "seed", encoder.spec.fingerprint, 128))
    gallery.upsert([Entry("k", np.zeros(128, np.float32))])
    with pytest.raises(SourceError, match="expected queries with labels"):
        evaluate(gallery, encoder, None, None, Stages())
