"""Export a trained model as LiteRT files with a model card.

The exported files must give the same results as the trained model. Otherwise, the encoder's folder stays unchanged.
"""

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

from encoder_service.encoder import CARD_FORMAT, Encoder
from gallery.files import replace_file
from gallery.formats import FORMAT_KEY
from training.errors import ParityError
from training.model import Autoencoder

MAX_DIFFERENCE = 1e-4
"""Maximum difference between a number that the exported files compute and the same number from the trained model.

Rounding alone causes differences of up to 5e-5, in whitened codes.
"""

# The model card, encoder.json, is written last, so that an incomplete folder is not taken for an encoder.
_FILES = ("encoder.tflite", "decoder.tflite", "encoder.json")


def export(model: Autoencoder, card: dict[str, Any], samples: NDArray[np.float32], folder: Path) -> Encoder:
    """Write encoder.tflite, decoder.tflite and encoder.json.

    Args:
        model: The trained model.
        card: Fields of the model card about the training. This function adds format, name, checksums, shapes and
            versions.
        samples: Inputs on which the files are compared with the model, (n, h, w, c) in [0, 1].
        folder: Folder for the files, created if missing. Its name becomes the encoder's name.

    Returns:
        The encoder, loaded from the files.

    Raises:
        ParityError: An output of the files differs from the trained model's by more than 1e-4. The folder is unchanged.
    """
    encoder, decoder = _converted(model.encoder), _converted(model.decoder)
    card = {
        FORMAT_KEY: CARD_FORMAT,
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
    with contextlib.redirect_stdout(io.StringIO()):  # Keras prints details of its temporary export
        content: bytes = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    return content


def _check_parity(model: Autoencoder, exported: Encoder, samples: NDArray[np.float32]) -> None:
    codes = model.encoder.predict(samples, verbose=0)
    pairs = {
        "encoder": (codes, exported.encode(samples)),
        "decoder": (model.decoder.predict(codes, verbose=0), exported.decode(codes)),
    }
    for part, (expected, actual) in pairs.items():
        difference = float(np.abs(expected - actual).max())
        if not difference <= MAX_DIFFERENCE:
            raise ParityError(
                f"exported {part}: expected the trained model's outputs within {MAX_DIFFERENCE}, got a difference of "
                f"{difference:.1e}: nothing is exported"
            )
