"""Export a trained model as LiteRT files with a model card.

The files are compared with the trained model before they are put into place.

Convolutions are quantised: their weights, inputs and outputs are 8-bit integers, with ranges that are measured on
training images. On processors with 8-bit dot products, encoding is then three times as fast. Sums of integers are
exact, so a code depends neither on the other images of a batch nor on the processor. All other layers, such as the
dense ones that make the code, compute with 32 bits.
"""

import contextlib
import hashlib
import io
import json
import platform
import tempfile
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer
from ai_edge_quantizer.recipe_manager import RecipeManager
from numpy.typing import NDArray

from encoder_service.encoder import CARD_FORMAT, Encoder
from gallery.files import replace_file
from gallery.formats import FORMAT_KEY
from training.errors import ParityError
from training.fit import batches, inputs
from training.model import Autoencoder

MAX_DIFFERENCE = 1e-4
"""Largest allowed difference between an output of the exported files and the trained model's, before quantisation.

Rounding alone causes differences of up to 5e-5, in whitened codes.
"""
MAX_CODE_CHANGE = 0.2
"""Largest allowed mean distance between an image's quantised code and the trained model's code for the image.

It is given as a fraction of the mean distance between the codes of different images.

The shipped encoders have 0.03 to 0.04.
"""

# Number of held-out images on which outputs are compared.
_COMPARED = 256
# Number of training images on which the ranges of quantised layers are measured.
_RANGED = 1024


def export(
    model: Autoencoder,
    card: dict[str, Any],
    train: NDArray[np.uint8],
    held_out: NDArray[np.uint8],
    folder: Path,
    *,
    quantise: bool,
) -> Encoder:
    """Write encoder.tflite, decoder.tflite and encoder.json.

    Args:
        model: The trained model.
        card: The model card's account of the training. The format, name, checksums, shapes, versions and figures of the
            exported files are added.
        train: (n, h, w, c) uint8, 0 to 255, on some of which the ranges of quantised layers are measured.
        held_out: (m, h, w, c) uint8, 0 to 255, on which the files are measured and compared with the model.
        folder: Folder for the files, created if missing. Its name becomes the encoder's name.
        quantise: Whether to quantise the convolutions.

    Returns:
        The encoder, loaded from the files.

    Raises:
        ParityError: The files' outputs differ too much from the model's. The folder is unchanged.
    """
    encoder, decoder = _converted(model.encoder), _converted(model.decoder)
    samples = inputs(held_out[:_COMPARED])
    with tempfile.TemporaryDirectory(prefix="lookalike-") as scratch:
        exported = _write(Path(scratch) / folder.name, model, card, encoder, decoder)
        codes = exported.encode(samples)
        _check_parity(model, exported, samples, codes)
        if quantise:
            ranged = inputs(train[:: -(-len(train) // _RANGED)])
            encoder = _quantised(encoder, model.encoder, ranged)
            decoder = _quantised(decoder, model.decoder, exported.encode(ranged))
            exported = _write(Path(scratch) / folder.name, model, card, encoder, decoder)
            change = _code_change(codes, exported.encode(samples))
            card = {**card, "quantisation": {"convolutions": "int8", "code_change": change}}
        card = {**card, "metrics": {"test_mse": _mse(exported, held_out), **card["metrics"]}}
    return _write(folder, model, card, encoder, decoder)


def _write(folder: Path, model: Autoencoder, card: dict[str, Any], encoder: bytes, decoder: bytes) -> Encoder:
    """Write the files of an encoder and load it. The card is written last: a folder without one is not an encoder."""
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
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / "encoder.tflite", encoder)
    replace_file(folder / "decoder.tflite", decoder)
    replace_file(folder / "encoder.json", json.dumps(card, indent=2).encode() + b"\n")
    return Encoder(folder)


def _converted(model: keras.Model) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    with contextlib.redirect_stdout(io.StringIO()):  # Keras prints details of its temporary export
        content: bytes = converter.convert()
    return content


def _quantised(content: bytes, model: keras.Model, ranged: NDArray[np.float32]) -> bytes:
    """Quantise the convolutions of a converted model, with the ranges that its layers have on some inputs."""
    recipe = RecipeManager()
    for layer in (TFLOperationName.CONV_2D, TFLOperationName.MAX_POOL_2D):
        recipe.add_static_config(".*", layer, activation_num_bits=8, weight_num_bits=8)
    rows = {"serving_default": [{model.inputs[0].name: row[None]} for row in ranged]}
    with (
        contextlib.redirect_stdout(io.StringIO()),  # the quantiser prints a report
        contextlib.redirect_stderr(io.StringIO()),  # and draws progress bars
        warnings.catch_warnings(action="ignore"),  # it keeps the outputs of all layers, as it has to
    ):
        quantizer = Quantizer(content, recipe.get_quantization_recipe())
        result = quantizer.quantize(quantizer.calibrate(rows, num_threads=1))
    return bytes(result.quantized_model)


def _check_parity(
    model: Autoencoder, exported: Encoder, samples: NDArray[np.float32], codes: NDArray[np.float32]
) -> None:
    expected = model.encoder.predict(samples, verbose=0)
    pairs = {
        "encoder": (expected, codes),
        "decoder": (model.decoder.predict(expected, verbose=0), exported.decode(expected)),
    }
    for part, (wanted, actual) in pairs.items():
        difference = float(np.abs(wanted - actual).max())
        if not difference <= MAX_DIFFERENCE:
            raise ParityError(
                f"exported {part}: expected the trained model's outputs within {MAX_DIFFERENCE}, got a difference of "
                f"{difference:.1e}: nothing is exported"
            )


def _code_change(codes: NDArray[np.float32], quantised: NDArray[np.float32]) -> float:
    """Return the mean distance between an image's codes before and after quantisation; see `MAX_CODE_CHANGE`."""
    change = float(
        np.linalg.norm(quantised - codes, axis=1).mean() / np.linalg.norm(codes[1:] - codes[:-1], axis=1).mean()
    )
    if not change <= MAX_CODE_CHANGE:
        raise ParityError(
            f"quantised encoder: expected codes changed by at most {MAX_CODE_CHANGE} of the distance between images, "
            f"got {change:.2f}: nothing is exported"
        )
    return change


def _mse(encoder: Encoder, held_out: NDArray[np.uint8]) -> float:
    errors = [encoder.reconstruction_errors(part, encoder.encode(part)) for part in map(inputs, batches(held_out))]
    return float(np.concatenate(errors).mean())
