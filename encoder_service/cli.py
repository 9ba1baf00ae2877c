"""The `encoder-service` command."""

import io
import json
import os
import sys
from contextlib import closing
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from PIL import Image

from encoder_service import images, terminal
from encoder_service.encoder import load_encoder
from encoder_service.errors import ImageError
from encoder_service.limits import LIMITS
from encoder_service.rpc.config import Config, configured
from encoder_service.searcher import SearchRequest, SearchResult, Subject
from encoder_service.terminal import (
    CaFileOption,
    CertFileOption,
    EncoderOption,
    JsonOption,
    StoreOption,
    TokenFileOption,
)
from gallery import DEFAULT_LIMIT, DEFAULT_STORE, MAX_LIMIT, SearchOptions, open_store
from gallery.errors import KeyNotFoundError, NotFoundError

app = typer.Typer(
    help="Find the pictures that look like yours: serve the search over gRPC, or search from the terminal.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)

_LIMITS = (
    "Limits: " + "; ".join(f"{getattr(LIMITS, one.name):,} {one.metadata['unit']}" for one in fields(LIMITS)) + "."
)


@app.command(epilog=_LIMITS)
@configured
def serve(config: Config) -> None:
    """Answer encodings and searches over gRPC, until SIGTERM or Ctrl-C."""
    from encoder_service.rpc.logs import begin_logging
    from encoder_service.rpc.server import Server

    begin_logging(config.log_format, config.log_level)
    server = Server(open_store(config.store), load_encoder(config.encoder), config)
    try:
        server.start()
    except BaseException:
        server.stop(grace_s=0)
        raise
    print(f"serving on {server.address}", flush=True)
    if config.metrics_port is not None:
        print(f"metrics on http://{config.metrics_host}:{server.metrics_port}/metrics", flush=True)
    server.wait_for_signal()


@app.command("config")
@configured
def show_config(config: Config) -> None:
    """Print what would be in force for `serve` with the same flags, environment and file, as JSON."""
    print(json.dumps(config.shown(), indent=2))


@app.command()
def health(
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="The service.")] = "127.0.0.1:50051",
    live: Annotated[bool, typer.Option("--live", help="Ask only whether it lives.")] = False,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
) -> None:
    """Ask a running service whether it is ready; exit with 0 if so, with 5 if not."""
    with terminal.connect(address, None, ca_file, cert_file) as client:
        client.check_health("liveness" if live else "")
    print("alive" if live else "ready")


@app.command()
def search(
    image: Annotated[
        str, typer.Argument(help="An image file, - for stdin, a dataset's image (mnist/test/7), or a stored key.")
    ],
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Ask a running service; without it, open the store here.")
    ] = "",
    name: Annotated[str, typer.Option(help="Gallery to search; the store's only one if not given.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="The most hits wanted.")] = DEFAULT_LIMIT,
    out: Annotated[Path | None, typer.Option(help="Write a picture of the query beside its hits, as PNG.")] = None,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    store: StoreOption = DEFAULT_STORE,
    encoder: EncoderOption = "",
    as_json: JsonOption = False,
) -> None:
    """Find the stored images that look like one. A query named by key never answers itself."""
    query = _query(image)
    options = SearchOptions(limit=limit, exclude_keys=query.exclude_keys, with_thumbnails=out is not None)
    request = SearchRequest(query.subject, options)
    try:
        if address:
            with terminal.connect(address, token_file, ca_file, cert_file) as client:
                result = client.search(request.subject, name, request.options)
        else:
            result = _search_here(store, encoder, name, request)
    except NotFoundError as error:
        if isinstance(query.subject, str) and f"'{image}'" in str(error):
            raise KeyNotFoundError(f"'{image}' is no file, no dataset's image and no stored key: {error}") from error
        raise
    if out:
        _write_sheet(out, image, query.subject, result)
    if as_json:
        print(json.dumps(_as_dict(result)))
    else:
        terminal.print_hits(result, image)


def main() -> None:
    """Run the command."""
    terminal.run(app)


class _Query(NamedTuple):
    subject: Subject
    exclude_keys: tuple[str, ...] = ()


def _query(text: str) -> _Query:
    if text == "-":
        return _Query(sys.stdin.buffer.read())
    if os.path.isfile(text):  # noqa: PTH113 (Path.is_file raises for a name that is too long)
        try:
            return _Query(Path(text).read_bytes())
        except OSError as error:
            raise ImageError(f"{text} can't be read: {error.strerror}") from error
    for lookup in entry_points(group="lookalike.images"):
        image = lookup.load()(text)
        if image is not None:
            return _Query(image, (text,))
    return _Query(text)


def _search_here(store: str, encoder: str, name: str, request: SearchRequest) -> SearchResult:
    from encoder_service.galleries import Galleries

    with (
        closing(Galleries(open_store(store), load_encoder(encoder) if encoder else None)) as galleries,
        galleries.searcher(name) as searcher,
    ):
        return searcher.search(request)


def _as_dict(result: SearchResult) -> dict[str, object]:
    return {
        "gallery": result.gallery,
        "version": result.version,
        "encoder": result.encoder,
        "encode_ms": round(result.encode_ms, 3),
        "search_ms": round(result.search_ms, 3),
        "reconstruction_error": result.reconstruction_error,
        "query_percentile": result.query_percentile,
        "hits": [
            {
                "key": hit.key,
                "label": hit.label,
                "distance": hit.distance,
                "distance_percentile": hit.distance_percentile,
            }
            for hit in result.hits
        ],
    }


def _write_sheet(path: Path, name: str, subject: Subject, result: SearchResult) -> None:
    from encoder_service.sheet import draw_sheet

    picture: Image.Image | None = None
    if isinstance(subject, Image.Image):
        picture = subject
    elif isinstance(subject, bytes):
        picture = images.decode(subject)
    elif result.query_thumbnail_png:
        picture = Image.open(io.BytesIO(result.query_thumbnail_png))
    file = io.BytesIO()
    draw_sheet(picture, name, result.hits).save(file, "PNG", optimize=True)
    terminal.write_out(path, file.getvalue())
