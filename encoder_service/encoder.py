"""Inputs to codes and back, with LiteRT. The only file that imports it."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.errors import EncoderDamagedError, EncoderNotFoundError, InputShapeError
from gallery.files import user_data_folder
from gallery.types import check_codes

DEFAULT_ENCODER = "mnist"
MODELS = Path(__file__).parent / "models"
"""The encoders that come with the service; those that the user trained are in `user_models`."""

# Many inputs go through in batches of this size, where LiteRT is at its fastest; the rest one by one.
_BATCH = 64


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """What an encoder is, from its model card `encoder.json`.

    Attributes:
        name: Its name, such as "seed".
        fingerprint: SHA-256 of encoder.tflite, 64 hex digits.
        decoder_sha256: SHA-256 of decoder.tflite, 64 hex digits.
        input_shape: (height, width, channels) of an input.
        code_size: How many numbers a code has.
        background: Grey level that stands under transparent parts of an image, 0 to 255.
    """

    name: str
    fingerprint: str
    decoder_sha256: str
    input_shape: tuple[int, int, int]
    code_size: int
    background: int


class Encoder:
    """A trained model that turns inputs into codes. Safe to use from several threads at once."""

    def __init__(self, folder: Path) -> None:
        """Load an encoder.

        Args:
            folder: Holds encoder.tflite, decoder.tflite and encoder.json.

        Raises:
            EncoderNotFoundError: The folder has no encoder.json.
            EncoderDamagedError: A file is missing or not the one that encoder.json was written for.
        """
        self.folder = folder
        self.spec = _read_spec(folder)
        self._encoder = _Model(_weights(folder / "encoder.tflite", self.spec.fingerprint))
        self._decoder = _Model(_weights(folder / "decoder.tflite", self.spec.decoder_sha256))
        with _hushed():
            self.warm()

    def encode(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode inputs into codes.

        Args:
            inputs: (n, *input_shape), values in [0, 1].

        Returns:
            (n, code_size), row i for input i.

        Raises:
            InputShapeError: An input has another shape than the encoder takes.
        """
        if inputs.shape[1:] != self.spec.input_shape:
            raise InputShapeError(f"inputs: expected shape (n, *{self.spec.input_shape}), got {inputs.shape}")
        return self._encoder.run(inputs).reshape(-1, self.spec.code_size)

    def normalise(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Turn images into this encoder's inputs, (n, *input_shape)."""
        return images.normalise(pictures, self.spec.input_shape, self.spec.background)

    def encode_images(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Normalise images and encode them into codes, (n, code_size)."""
        return self.encode(self.normalise(pictures))

    def reconstruction_errors(self, inputs: NDArray[np.float32], codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean squared error, (n,), between inputs and what the decoder makes of their codes."""
        errors: NDArray[np.float32] = np.square(self.decode(codes) - inputs).mean(axis=(1, 2, 3))
        return errors

    def decode(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstruct inputs from codes.

        Args:
            codes: (n, code_size), finite.

        Returns:
            (n, *input_shape), values in [0, 1].

        Raises:
            InvalidCodeError: A code has NaN, infinity or a wrong size.
        """
        return self._decoder.run(check_codes(codes, self.spec.code_size))

    def warm(self) -> None:
        """Encode one black input, so that the first real one finds everything in place."""
        self.encode(np.zeros((1, *self.spec.input_shape), np.float32))


def user_models() -> Path:
    """Return the folder of the encoders that the user trained."""
    return user_data_folder() / "models"


def load_encoder(name: str = DEFAULT_ENCODER) -> Encoder:
    """Load an encoder by name, the user's own first, or from the folder that a path names.

    Raises:
        EncoderNotFoundError: There is none.
        EncoderDamagedError: Its files are not whole.
    """
    if os.sep in name or "/" in name:
        return Encoder(Path(name))
    own = user_models() / name
    return Encoder(own if (own / "encoder.json").exists() else MODELS / name)


class _Model:
    """One LiteRT file. An interpreter is not safe to share, so a run takes an idle one, or makes one.

    The one used last is taken first: its weights are still in the processor's cache.
    """

    def __init__(self, weights: bytes) -> None:
        self._weights = weights
        self._idle: dict[int, list[_Session]] = {1: [], _BATCH: []}

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        whole = len(rows) // _BATCH * _BATCH
        parts = [self._run(rows[start : start + _BATCH]) for start in range(0, whole, _BATCH)]
        parts += [self._run(rows[start : start + 1]) for start in range(whole, len(rows))]
        return np.concatenate(parts) if parts else self._run(np.zeros((1, *rows.shape[1:]), np.float32))[:0]

    def _run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        idle = self._idle[len(rows)]
        try:
            session = idle.pop()
        except IndexError:
            session = _Session(self._weights, rows.shape)
        result = session.run(rows)
        idle.append(session)
        return result


def _interpreter(**arguments: Any) -> Any:
    """Create a LiteRT interpreter. The import is here because it takes 0.25 s, and most commands encode nothing."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(**arguments)


class _Session:
    """An interpreter for one batch size. It keeps the tensors' places, as asking for them takes longer than a run."""

    def __init__(self, weights: bytes, shape: tuple[int, ...]) -> None:
        self._interpreter = _interpreter(model_content=weights, num_threads=1)
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._interpreter.resize_tensor_input(self._input, shape)
        self._interpreter.allocate_tensors()

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        self._interpreter.set_tensor(self._input, rows)
        self._interpreter.invoke()
        result: NDArray[np.float32] = self._interpreter.get_tensor(self._output)
        return result


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep LiteRT's greeting off stderr: it writes one line for its first interpreter, and has no switch for it."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _read_spec(folder: Path) -> EncoderSpec:
    try:
        card = json.loads((folder / "encoder.json").read_bytes())
        return EncoderSpec(
            name=str(card["name"]),
            fingerprint=str(card["fingerprint"]),
            decoder_sha256=str(card["decoder_sha256"]),
            input_shape=tuple(card["input_shape"]),
            code_size=int(card["code_size"]),
            background=int(card["background"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        cards = (*MODELS.glob("*/encoder.json"), *user_models().glob("*/encoder.json"))
        names = ", ".join(sorted({card.parent.name for card in cards}))
        raise EncoderNotFoundError(f"no encoder '{folder.name}': expected one of {names}, or a folder's path") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderDamagedError(f"{folder / 'encoder.json'} is no model card: {error}") from error


def _weights(path: Path, sha256: str) -> bytes:
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise EncoderDamagedError(f"{path} can't be read: {error.strerror}") from error
    if hashlib.sha256(weights).hexdigest() != sha256:
        raise EncoderDamagedError(f"{path} is not the file that its encoder.json describes: train or install it again")
    return weights
