"""Encode inputs into codes and decode them, with LiteRT. No other module imports LiteRT."""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from encoder_service import images
from encoder_service.errors import EncoderDamagedError, EncoderNotFoundError, InputShapeError
from encoder_service.framing import frame_digit
from gallery.errors import InvalidInputError
from gallery.files import user_data_folder
from gallery.formats import check_format
from gallery.types import check_codes

DEFAULT_ENCODER = "mnist"
PHOTOS_ENCODER = "photos"
"""The shipped encoder for images that are in colour, or larger than digits."""
MODELS = Path(__file__).parent / "models"
"""The folder of the shipped encoders. Encoders that the user has trained are in the folder `user_models()`."""

CARD_FORMAT = 1
"""Version of the model card's format. A release that changes the meaning of a field must increase it."""

_CARD = "encoder.json"
# Encoders that were shipped before, each in a folder named by the first eight digits of its fingerprint.
_EARLIER = MODELS / "earlier"
_DIGIT_FRAMING = "digit"
# Number of inputs per run of the model: LiteRT is fastest with this many. If a call's inputs do not divide evenly into
# batches, the rest run one by one.
_BATCH = 64
_greeting_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """The description of an encoder, from its model card `encoder.json`.

    Attributes:
        name: The encoder's name, such as "seed".
        fingerprint: SHA-256 of encoder.tflite, 64 hex digits.
        decoder_sha256: SHA-256 of decoder.tflite, 64 hex digits.
        input_shape: (height, width, channels) of an input, channels 1 or 3.
        code_size: Number of values in a code.
        background: Grey level that fills transparent parts of an image, 0 (black) to 255 (white). An image that would
            barely stand out from this level gets the opposite level, 255 - background.
        framing: Rule that adapts query images to the encoder's training data: "digit" for `framing.frame_digit`, or
            empty for no rule. It does not change the codes of stored images, so comparisons ignore it.
        fit: How an image is brought to the inputs' aspect ratio: "crop" or "squeeze"; see `images.normalise`.
    """

    name: str
    fingerprint: str
    decoder_sha256: str
    input_shape: tuple[int, int, int]
    code_size: int
    background: int
    framing: str = field(default="", compare=False)
    fit: str = "crop"


class Encoder:
    """A trained model that turns inputs into codes. Safe to use from several threads at once."""

    def __init__(self, folder: Path) -> None:
        """Load an encoder.

        Args:
            folder: The folder with encoder.tflite, decoder.tflite and encoder.json.

        Raises:
            EncoderNotFoundError: The folder has no encoder.json.
            EncoderDamagedError: A file is missing, or its hash differs from the one in encoder.json.
            NewerFormatError: A newer release of Lookalike wrote encoder.json.
        """
        self.folder = folder
        self.spec = _read_spec(folder)
        self._encoder = _Model(_weights(folder / "encoder.tflite", self.spec.fingerprint))
        self._decoder = _Model(_weights(folder / "decoder.tflite", self.spec.decoder_sha256))
        with _greeting_lock:
            _absorb_greeting()
        self.warm()

    def encode(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Encode inputs into codes.

        Args:
            inputs: (n, *input_shape), values in [0, 1].

        Returns:
            (n, code_size) float32, row i for input i.

        Raises:
            InputShapeError: The inputs have another shape than the encoder takes.
        """
        if inputs.shape[1:] != self.spec.input_shape:
            raise InputShapeError(f"inputs: expected shape (n, *{self.spec.input_shape}), got {inputs.shape}")
        return self._encoder.run(inputs).reshape(-1, self.spec.code_size)

    def normalise(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Turn n images into this encoder's inputs, (n, *input_shape) float32 in [0, 1]; see `images.normalise`."""
        return images.normalise(pictures, self.spec.input_shape, self.spec.background, self.spec.fit)

    def frame(self, picture: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
        """Adapt a query image to the encoder's training data, if the encoder has a framing rule.

        Args:
            picture: The image, mode L, RGB or RGBA.

        Returns:
            The adapted image and the steps applied, such as ("inverted", "centred"). If the image needs no change, or
            the encoder has no rule: the image itself and an empty tuple.
        """
        if self.spec.framing != _DIGIT_FRAMING:
            return picture, ()
        framed, done = frame_digit(images.flattened(picture, self.spec.background, channels=1))
        return (framed, done) if done else (picture, ())

    def encode_images(self, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Normalise n images and encode them into codes, (n, code_size) float32."""
        return self.encode(self.normalise(pictures))

    def reconstruction_errors(self, inputs: NDArray[np.float32], codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Measure how well the decoder reconstructs inputs from their codes.

        Args:
            inputs: (n, *input_shape), values in [0, 1].
            codes: (n, code_size), the inputs' codes, finite.

        Returns:
            (n,) float32, the mean squared error between each input and its reconstruction, 0 to 1.

        Raises:
            InvalidCodeError: A code has NaN, infinity or a wrong size.
        """
        errors: NDArray[np.float32] = np.square(self.decode(codes) - inputs).mean(axis=(1, 2, 3))
        return errors

    def decode(self, codes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Reconstruct inputs from codes.

        Args:
            codes: (n, code_size), finite.

        Returns:
            (n, *input_shape) float32, values in [0, 1].

        Raises:
            InvalidCodeError: A code has NaN, infinity or a wrong size.
        """
        return self._decoder.run(check_codes(codes, self.spec.code_size))

    def warm(self) -> None:
        """Encode one black input, so that LiteRT allocates its memory before the first real input."""
        self.encode(np.zeros((1, *self.spec.input_shape), np.float32))


def user_models() -> Path:
    """Return the folder of the encoders that the user trained.

    Raises:
        InvalidInputError: The user has no home folder.
    """
    return user_data_folder() / "models"


def load_encoder(name: str = DEFAULT_ENCODER, fingerprint: str = "") -> Encoder:
    """Load an encoder.

    Args:
        name: Name of an encoder, or path of an encoder's folder. If the user has trained an encoder with the name of
            a shipped one, the user's is loaded.
        fingerprint: Fingerprint that a gallery recorded; "" for none. If the encoder `name` has a different
            fingerprint, and an earlier release shipped an encoder with the recorded one, the earlier encoder is loaded.
            In all other cases, the encoder `name` is loaded.

    Raises:
        EncoderNotFoundError: No encoder has this name.
        EncoderDamagedError: A file of the encoder is missing or altered.
        NewerFormatError: A newer release of Lookalike wrote the model card.
    """
    folder, earlier = _folder(name), _EARLIER / fingerprint[:8]
    if (earlier / _CARD).exists() and _read_spec(folder).fingerprint != fingerprint:
        folder = earlier
    return Encoder(folder)


def _folder(name: str) -> Path:
    if os.sep in name or "/" in name:
        return Path(name)
    try:
        own = user_models() / name
    except InvalidInputError:  # a user without a home folder has trained no encoders
        return MODELS / name
    return own if (own / _CARD).exists() else MODELS / name


class _Model:
    """One LiteRT model. LiteRT's interpreters are not thread-safe, so each run takes an idle session or a new one.

    The most recently used idle session is taken first, because its weights are still in the processor's cache.
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
    """Create a LiteRT interpreter.

    LiteRT is imported only here, because the import takes 0.25 s and most commands do not need LiteRT.
    """
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(**arguments)


class _Session:
    """An interpreter for one batch size. It keeps the tensors' indices: looking them up takes longer than a run."""

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


@cache
def _absorb_greeting() -> None:
    """Create a first interpreter with stderr redirected to /dev/null, to hide the message that LiteRT then prints.

    LiteRT has no option to turn the message off. A process loads its first encoder before it serves, so no other thread
    writes to stderr meanwhile.
    """
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        _interpreter(model_path=str(MODELS / "seed" / "encoder.tflite"), num_threads=1).allocate_tensors()
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _read_spec(folder: Path) -> EncoderSpec:
    path = folder / _CARD
    try:
        card = json.loads(path.read_bytes())
        check_format(card, CARD_FORMAT, str(path))
        if (fit := str(card.get("fit", "crop"))) not in images.FITS:
            raise ValueError(f"fit: expected one of {', '.join(images.FITS)}, got {fit!r}")
        return EncoderSpec(
            name=str(card["name"]),
            fingerprint=str(card["fingerprint"]),
            decoder_sha256=str(card["decoder_sha256"]),
            input_shape=tuple(card["input_shape"]),
            code_size=int(card["code_size"]),
            background=int(card["background"]),
            framing=str(card.get("framing", "")),
            fit=fit,
        )
    except (FileNotFoundError, NotADirectoryError):
        cards = list(MODELS.glob(f"*/{_CARD}"))
        with suppress(InvalidInputError):  # the user has no home folder, so no encoders of their own
            cards += user_models().glob(f"*/{_CARD}")
        names = ", ".join(sorted({card.parent.name for card in cards}))
        raise EncoderNotFoundError(f"no encoder '{folder.name}': expected one of {names}, or a folder's path") from None
    except OSError as error:
        raise EncoderDamagedError(f"can't be read: {error.strerror}", place=str(path)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderDamagedError(f"expected a model card: {type(error).__name__}: {error}", place=str(path)) from error


def _weights(path: Path, sha256: str) -> bytes:
    try:
        weights = path.read_bytes()
    except OSError as error:
        raise EncoderDamagedError(f"can't be read: {error.strerror}", place=str(path)) from error
    if hashlib.sha256(weights).hexdigest() != sha256:
        raise EncoderDamagedError(
            f"not the file that {_CARD} describes: train or install the encoder again", place=str(path)
        )
    return weights
