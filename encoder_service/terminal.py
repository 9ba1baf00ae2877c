"""What the commands at a terminal share: the store option, errors as one line and an exit code, the table of hits."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder_service.searcher import SearchResult
from gallery.errors import InvalidInputError, LookalikeError
from gallery.files import replace_file

if TYPE_CHECKING:
    from encoder_service.client import Client
StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="LOOKALIKE_STORE",
        help="Where galleries are kept: edge:DIR, or http://HOST:6333 for a Qdrant server.",
        metavar="URL",
        show_default="edge: in the user's data folder",
    ),
]
EncoderOption = Annotated[
    str,
    typer.Option(
        "--encoder",
        envvar="LOOKALIKE_ENCODER",
        help="Encoder by name, or its folder's path; else the gallery's or the source's own.",
    ),
]
TokenFileOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file", envvar="LOOKALIKE_TOKEN_FILE", help="File with the token that a service wants, if it wants one."
    ),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option(
        "--ca-file", envvar="LOOKALIKE_CA_FILE", help="PEM of the authority of a service with TLS; none: no TLS."
    ),
]
CertFileOption = Annotated[
    Path | None,
    typer.Option(
        "--cert-file",
        envvar="LOOKALIKE_CERT_FILE",
        help="PEM of our own certificate and its key, in this order, for a service that wants one (mTLS).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def run(app: Callable[[], None]) -> None:
    """Run a command; an expected error becomes one line on stderr and its exit code, never a traceback."""
    try:
        app()
    except LookalikeError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    except BrokenPipeError:
        # The reader of our output, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def connect(address: str, token_file: Path | None, ca_file: Path | None, cert_file: Path | None) -> "Client":
    """Return a client of a running service.

    Args:
        address: HOST:PORT.
        token_file: Holds the token that says who calls; None for none.
        ca_file: The authority that the service's certificate is of; None for no TLS.
        cert_file: The caller's own certificate with its key; None for none.

    Raises:
        InvalidInputError: A file can't be read, or the address is none.
    """
    import grpc

    from encoder_service.client import Client

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InvalidInputError(f"service {address!r}: expected HOST:PORT, such as 127.0.0.1:50051")
    if cert_file and not ca_file:
        raise InvalidInputError("--cert-file: expected --ca-file with it")
    token = _read(token_file).decode().strip() if token_file else ""
    own = _read(cert_file) if cert_file else None
    # each of the two finds its own part of the file
    credentials = grpc.ssl_channel_credentials(_read(ca_file), own, own) if ca_file else None
    return Client(address, token=token, credentials=credentials)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInputError(f"{path} can't be read: {error.strerror}") from error


def write_out(path: Path, content: bytes) -> None:
    """Write the file that a user asked for with --out, whole or not at all.

    Raises:
        InvalidInputError: It can't be written there.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise InvalidInputError(f"--out {path} can't be written: {error.strerror}: name a file in a folder") from error


def print_hits(result: SearchResult, query: str) -> None:
    """Print hits as a table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"looks like {query}", title_justify="left", title_style="bold")
    table.add_column("", justify="right", style="dim")
    table.add_column("key")
    table.add_column("label")
    table.add_column("distance", justify="right")
    table.add_column("percentile", justify="right")
    for rank, hit in enumerate(result.hits, start=1):
        percentile = "" if hit.distance_percentile is None else f"{hit.distance_percentile:.0f}"
        table.add_row(str(rank), hit.key, hit.label, f"{hit.distance:.3f}", percentile)
    console = Console()
    console.print(table)
    if result.is_unusual:
        console.print(
            "probably nothing there is like it: 99 of 100 images of the gallery are less unusual", style="yellow"
        )
    console.print(
        f"gallery {result.gallery} v{result.version}, encoder {result.encoder}; "
        f"encode {result.encode_ms:.2f} ms, search {result.search_ms:.2f} ms",
        style="dim",
        highlight=False,
    )
