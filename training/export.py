"""Keras to LiteRT files with a model card, checked against the trained model before they are put in place."""

import contextlib
import hashlib
import io
import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from encoder_service.encoder import Encoder
from gallery.files import replace_file
from training.errors import ParityError
from training.model import Autoencoder

MAX_DIFFERENCE = 1e-4
"""The most that a number from the exported files may differ from the trained model's."""

_FILES = ("encoder.tflite", "decoder.tflite", "encoder.json")  # the card last: it is what makes the folder an encoder


def export(model: Autoencoder, card: dict[str, Any], samples: NDArray[np.float32], folder: Path) -> Encoder:
    """Write encoder.tflite, decoder.tflite and encoder.json.

    Args:
        model: Trained.
        card: What the model card says; names, shapes, sums and versions are filled in.
        samples: (n, h, w, c) in [0, 1], on which the files are compared with the model.
        folder: Made if missing; its name is the encoder's.

    Returns:
        The encoder, loaded from the files.

    Raises:
        ParityError: The files differ from the model by more than 1e-4; the folder is left as it was.
    """
    encoder, decoder = _converted(model.encoder), _converted(model.decoder)
    card = {
        "name": folder.name,
        "fingerprint": hashlib.sha256(encoder).hexdigest(),
        "decoder_sha256": hashlib.sha256(decoder).hexdigest(),
        "input_shape": list(model.encoder.input_shape[1:]),
        "code_size": model.encoder.output_shape[1],
        **card,
        "versions": {"python": platform.python_version(), "tensorflow": tf.__version__, "keras": keras.__version__},
    }
    contents = dict(zip(_FILES, (encoder, decoder, json.dumps(card, indent=2).encode() + b"\n"), strict=True))
    with tempfile.TemporaryDirectory(prefix="lookalike-") as scratch:
        for name, content in contents.items():
            (Path(scratch) / name).write_bytes(content)
        _check_parity(model, Encoder(Path(scratch)), samples)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        replace_file(folder / name, content)
    return Encoder(folder)


def _converted(model: keras.Model) -> bytes:
    with contextlib.redirect_stdout(io.StringIO()):  # Keras tells at length what it saved where for the converter
        content: bytes = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    return content


def _check_parity(model: Autoencoder, exported: Encoder, samples: NDArray[np.float32]) -> None:
    codes = model.encoder.predict(samples, verbose=0)
    pairs = {
        "encoder": (codes, exported.encode(samples)),
        "decoder": (model.decoder.predict(codes, verbose=0), exported.decode(codes)),
    }
    for name, (trained, written) in pairs.items():
        difference = float(np.abs(trained - written).max())
        if not difference <= MAX_DIFFERENCE:
            raise ParityError(
                f"the exported {name} differs from the trained one by {difference:.1e}, more than {MAX_DIFFERENCE}: "
                "nothing is exported"
            )
