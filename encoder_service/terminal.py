"""Code that all commands share: the Typer app, common options, one-line error messages, and client connections."""

import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder_service import images
from encoder_service.rpc.addresses import joined
from gallery.errors import InvalidInputError, LookalikeError
from gallery.files import replace_file

if TYPE_CHECKING:
    from encoder_service.client import Client

StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="LOOKALIKE_STORE",
        help="Store of the galleries: edge:DIR, or http://HOST:6333 for a Qdrant server.",
        metavar="URL",
        show_default="edge: in the user's data folder",
    ),
]
EncoderOption = Annotated[
    str,
    typer.Option(
        "--encoder",
        envvar="LOOKALIKE_ENCODER",
        help="Name or folder of the encoder. Default: the encoder of the gallery or the source.",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option("--token-file", envvar="LOOKALIKE_TOKEN_FILE", help="File with the token that the service requires."),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-file",
        envvar="LOOKALIKE_CA_FILE",
        help="PEM file of the authority that signed the service's certificate. Required if the service uses TLS.",
    ),
]
CertFileOption = Annotated[
    Path | None,
    typer.Option(
        "--cert-file",
        envvar="LOOKALIKE_CERT_FILE",
        help="PEM file with the client's certificate and its key, in either order. Required if the service uses mTLS.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def new_app(help: str) -> typer.Typer:
    """Return a Typer app with the settings that all commands of this project share.

    Args:
        help: One sentence on the command's purpose.
    """
    return typer.Typer(
        help=help, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, add_completion=False
    )


def run(app: Callable[[], None]) -> None:
    """Run a command. For an expected error, print one line on stderr instead of a traceback, and use its exit code."""
    images.silence_pillow()
    try:
        app()
    except LookalikeError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except BrokenPipeError:
        # the process that reads this command's output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def printable(text: str) -> str:
    r"""Return a text that is safe to print on a terminal, even if it comes from an untrusted file name or label.

    Control characters, which could move the cursor or hide text, become escapes such as \x1b. So do unpaired
    surrogates, which can't be printed.
    """
    return "".join(_escaped(character) if _is_unsafe(character) else character for character in text)


def _is_unsafe(character: str) -> bool:
    # the two joiners are formatting characters too, but harmless, and emoji and some scripts need them
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u200c\u200d"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def connect(address: str, token_file: Path | None, ca_file: Path | None, cert_file: Path | None) -> "Client":
    """Return a client of a running service.

    Args:
        address: HOST:PORT, where HOST may be an IPv6 address with or without brackets; or unix:PATH.
        token_file: File with the token to send; None to send no token.
        ca_file: PEM file of the authority that signed the service's certificate; None for a connection without TLS.
        cert_file: PEM file with the client's own certificate and its key; None to send no certificate.

    Raises:
        InvalidInputError: A file can't be read, the token file has no token, or the address is malformed.
    """
    import grpc

    from encoder_service.client import Client

    if not address.startswith("unix:"):
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InvalidInputError(f"service {address!r}: expected HOST:PORT, such as 127.0.0.1:50051")
        address = joined(host, int(port))
    if cert_file and not ca_file:
        raise InvalidInputError("--cert-file: expected --ca-file with it")
    token = _token(token_file) if token_file else ""
    own = _read(cert_file) if cert_file else None
    # `own` is passed twice: the file holds both the key and the certificate, and gRPC picks out each
    credentials = grpc.ssl_channel_credentials(_read(ca_file), own, own) if ca_file else None
    return Client(address, token=token, credentials=credentials)


def _token(path: Path) -> str:
    try:
        token = _read(path).decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        token = ""
    if not token or not all(" " < character < "\x7f" for character in token):  # an HTTP header allows nothing else
        raise InvalidInputError(
            "expected one token of ASCII letters, digits and symbols, got other text", place=f"--token-file {path}"
        )
    return token


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"can't be read: {error.strerror}", place=str(path)) from error


def write_out(path: Path, content: bytes) -> None:
    """Write the file that the option --out names, atomically.

    Raises:
        InvalidInputError: The file can't be written.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise InvalidInputError(f"--out {path} can't be written: {error.strerror}: name a file in a folder") from error
