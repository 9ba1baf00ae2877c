"""The `encoder-service` command."""

import inspect
import io
import json
import os
import sys
import tomllib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import fields
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from PIL import Image

from encoder_service import images, terminal
from encoder_service.encoder import load_encoder
from encoder_service.errors import ImageError
from encoder_service.limits import LIMITS
from encoder_service.rpc.config import Config
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
from gallery.errors import InvalidInputError, KeyNotFoundError, NotFoundError

app = terminal.new_app(
    "Find the pictures that look like yours: serve the search over gRPC, or search from the terminal."
)

_LIMITS = (
    "Limits: " + "; ".join(f"{getattr(LIMITS, one.name):,} {one.metadata['unit']}" for one in fields(LIMITS)) + "."
)


def _read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Make the settings of a TOML file the defaults of the command's options."""
    if path is None:
        return None
    try:
        settings = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"--config {path}: expected a readable TOML file: {error}") from error
    known = [setting.name for setting in fields(Config)]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise InvalidInputError(f"--config {path}: unknown setting '{unknown[0]}': expected only {', '.join(known)}")
    context.default_map = {**(context.default_map or {}), **settings}
    return path


_ConfigOption = Annotated[
    Path | None,
    typer.Option(
        envvar="LOOKALIKE_CONFIG",
        help="TOML file of settings, named as these flags with _ for -. Flags and environment variables win over it.",
        callback=_read_settings,
        is_eager=True,
    ),
]


def configured(command: Callable[[Config], None]) -> Callable[..., None]:
    """Give a command an option for each setting of `Config`, and `--config FILE`.

    Args:
        command: Called with the resulting settings. Its name and docstring remain the command's.
    """

    def run(config: Path | None, **settings: Any) -> None:
        command(Config(**settings))

    options: dict[str, Any] = {"config": (_ConfigOption, None)}
    for setting in fields(Config):
        option = StoreOption if setting.name == "store" else Annotated[setting.type, _option(setting.metadata)]
        options[setting.name] = (option, setting.default)
    signature = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in options.items()
        ]
    )
    run.__signature__ = signature  # type: ignore[attr-defined] # Typer makes its options from the signature
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _option(metadata: Mapping[str, Any]) -> Any:
    return typer.Option(envvar=metadata["env"], help=metadata["help"], min=metadata["min"], max=metadata["max"])


@app.command(epilog=_LIMITS)
@configured
def serve(config: Config) -> None:
    """Serve encodings and searches over gRPC.

    Runs until SIGTERM or Ctrl-C, and then lets the calls in flight finish.
    """
    from encoder_service.rpc.logs import begin_logging
    from encoder_service.rpc.server import Server

    begin_logging(config.log_format, config.log_level)
    with Server(open_store(config.store), load_encoder(config.encoder), config) as server:
        print(f"serving on {server.address}", flush=True)
        if config.metrics_port is not None:
            print(f"metrics on http://{config.metrics_host}:{server.metrics_port}/metrics", flush=True)
        server.wait_for_signal()


@app.command("config")
@configured
def show_config(config: Config) -> None:
    """Print the settings of `serve` as JSON.

    Takes the same flags, environment variables and file as `serve`. Secrets are masked.
    """
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
        _print_hits(result, image)


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


def _print_hits(result: SearchResult, query: str) -> None:
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
            "No close match: this query looks less like the gallery than 99 % of its own images do.", style="yellow"
        )
    console.print(
        f"gallery {result.gallery} v{result.version}, encoder {result.encoder}; "
        f"encode {result.encode_ms:.2f} ms, search {result.search_ms:.2f} ms",
        style="dim",
        highlight=False,
    )
