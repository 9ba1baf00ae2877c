"""The decoders of untrusted bytes under a coverage-guided fuzzer: `python -m tests.soak.decoder`.

Atheris mutates images and messages and keeps those that reach new code. The decoders must raise only this project's
own errors. libFuzzer's options may follow, such as -atheris_runs=1000000.
"""

import io
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["encoder_service", "PIL"]):
    from PIL import Image

    from encoder_service import images
    from encoder_service.rpc import wire
    from encoder_service.v1 import encoder_pb2, gallery_pb2, search_pb2

from google.protobuf.message import DecodeError, Message

from gallery.errors import LookalikeError

# Mutated inputs per run.
_RUNS = 100_000
# Longest input, in bytes.
_MAX_BYTES = 4096


def main() -> None:
    """Run the fuzzer, which ends the process, with exit code 0 if it found nothing."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, content in enumerate(_seeds()):
            Path(corpus, str(number)).write_bytes(content)
        defaults = [f"-atheris_runs={_RUNS}", f"-max_len={_MAX_BYTES}", "-rss_limit_mb=0"]
        atheris.Setup([sys.argv[0], corpus, *defaults, *sys.argv[1:]], _decode)
        atheris.Fuzz()


def _decode(content: bytes) -> None:
    """Decode an image or, if its first byte says so, a message."""
    kind, rest = content[:1], content[1:]
    try:
        if kind < b"\x80":
            _image(rest)
        else:
            _message(kind[0], rest)
    except LookalikeError as error:
        assert "\n" not in str(error)


def _image(content: bytes) -> None:
    image = images.decode(content)
    if image.width * image.height <= 1_000_000:  # larger images take the same code, only slowly
        images.normalise([image], (28, 28, 1))
        images.thumbnail_png(image)


def _message(kind: int, content: bytes) -> None:
    message: Message
    try:
        match kind % 3:
            case 0:
                message = search_pb2.SearchRequest.FromString(content)
                wire.search_request_from_proto(message)
            case 1:
                message = search_pb2.BatchSearchRequest.FromString(content)
                wire.check_batch(message.requests)
            case _:
                message = gallery_pb2.AddImagesRequest.FromString(content)
                wire.check_same_gallery("", [message])
                wire.image_from_proto(message.image)
    except DecodeError:
        pass


def _seeds() -> list[bytes]:
    seeds = []
    for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        Image.linear_gradient("L").resize((8, 8)).save(file, form)
        seeds.append(b"\0" + file.getvalue())
    search = search_pb2.SearchRequest(key="k", limit=3, image=encoder_pb2.Image(encoded=seeds[0][1:]))
    return [*seeds, b"\x81" + search.SerializeToString()]


if __name__ == "__main__":
    main()
