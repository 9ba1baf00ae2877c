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
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from PIL import Image

from encoder_service import images, terminal
from encoder_service.encoder import load_encoder
from encoder_service.errors import quoted
from encoder_service.limits import LIMITS, MAX_EXPAND, UNUSUAL_PERCENTILE
from encoder_service.rpc.addresses import joined
from encoder_service.rpc.config import Config, ignore_kubernetes_variables
from encoder_service.searcher import Key, SearchRequest, SearchResult, Subject
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

if TYPE_CHECKING:
    from encoder_service.client import Client
    from encoder_service.rpc.server import Server
    from encoder_service.rpc.workers import Workers

# The format of a contact sheet, by the ending of its name.
_SHEET_FORMATS = {"": "PNG", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

app = terminal.new_app("Search images by example, over gRPC or from the terminal.")

_LIMITS = (
    "Limits: "
    + "; ".join(f"{getattr(LIMITS, limit.name):,} {limit.metadata['unit']}" for limit in fields(LIMITS))
    + "."
)


def _read_settings(context: typer.Context, path: Path | None) -> Path | None:
    """Use the settings in a TOML file as defaults for the command's options."""
    ignore_kubernetes_variables()
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
        help="TOML file of settings, such as max_streams = 8. Flags and environment variables take precedence.",
        callback=_read_settings,
        is_eager=True,
    ),
]


def configured(command: Callable[[Config], None]) -> Callable[..., None]:
    """Turn a function of `Config` into a command with an option for each setting, and `--config FILE`.

    Args:
        command: Called with the settings. Its name and docstring become the command's name and help text.
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
    run.__signature__ = signature  # type: ignore[attr-defined] # Typer derives the options from the signature
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def _option(metadata: Mapping[str, Any]) -> Any:
    return typer.Option(envvar=metadata["env"], help=metadata["help"], min=metadata["min"], max=metadata["max"])


@app.command(epilog=_LIMITS)
@configured
def serve(config: Config) -> None:
    """Serve image encoding and search over gRPC, and over HTTP with --http-port.

    Runs until SIGTERM or Ctrl-C, and then lets the calls in flight finish.
    """
    from encoder_service.rpc.logs import begin_logging
    from encoder_service.rpc.signals import EndingSignals

    begin_logging(config.log_format, config.log_level)
    with EndingSignals() as signals, _server(config) as server:
        print(f"serving on {server.address}", flush=True)
        if config.http_port is not None:
            scheme = "https" if config.tls_cert_file else "http"
            print(f"page on {scheme}://{joined(config.host, server.http_port)}/", flush=True)
        if config.metrics_port is not None:
            print(f"metrics on http://{joined(config.metrics_host, server.metrics_port)}/metrics", flush=True)
        server.wait_for_signal(signals)


def _server(config: Config) -> "Server | Workers":
    # imported only now: gRPC reads its log level, which `begin_logging` sets, when it is imported
    if config.workers > 1:
        from encoder_service.rpc.workers import Workers

        return Workers(config)
    from encoder_service.rpc.server import Server

    return Server(open_store(config.store), load_encoder(config.encoder), config)


@app.command("config")
@configured
def show_config(config: Config) -> None:
    """Print the settings of `serve` as JSON.

    Takes the same flags, environment variables and file as `serve`. Secrets are masked.
    """
    print(json.dumps(config.shown(), indent=2))


@app.command()
def health(
    address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Address of the service.")] = "127.0.0.1:50051",
    live: Annotated[bool, typer.Option("--live", help="Ask only whether the process is alive.")] = False,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
) -> None:
    """Ask a service whether it is ready.

    Exits with 0 if it is ready, and with 5 if it is not.
    """
    with terminal.connect(address, None, ca_file, cert_file) as client:
        client.check_health("liveness" if live else "")
    print("alive" if live else "ready")


@app.command()
def search(
    image: Annotated[
        str,
        typer.Argument(help="Image file, - for stdin, image of a dataset (mnist/test/9), or key of a stored image."),
    ],
    address: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Address of a running service. Default: search the store directly."),
    ] = "",
    gallery: Annotated[str, typer.Option(help="Gallery to search. Default: the store's only gallery.")] = "",
    name: Annotated[str, typer.Option(hidden=True, help="Former name of --gallery.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=MAX_LIMIT, help="Maximum number of hits.")] = DEFAULT_LIMIT,
    out: Annotated[
        Path | None, typer.Option(help="PNG, JPEG or WebP file in which to draw the query beside its hits.")
    ] = None,
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is",
            help="Search for the image exactly as it is, without first inverting or centring a digit for the encoder.",
        ),
    ] = False,
    expand: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_EXPAND,
            help="Number of nearest images to average with the query before searching again; not for a stored key.",
        ),
    ] = 0,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    store: StoreOption = DEFAULT_STORE,
    encoder: EncoderOption = "",
    as_json: JsonOption = False,
) -> None:
    """Find stored images similar to a query image.

    If the query is a stored image, given by its key, the hits do not include the image itself.
    """
    if out and out.suffix.lower() not in _SHEET_FORMATS:
        raise InvalidInputError(f"--out {out}: expected a name that ends in .png, .jpg or .webp")
    query = _query(image)
    options = SearchOptions(limit=limit, exclude_keys=query.exclude_keys, with_thumbnails=out is not None)
    request = SearchRequest(query.subject, options, as_is, expand)
    try:
        if address:
            with terminal.connect(address, token_file, ca_file, cert_file) as client:
                result = _search_service(client, gallery or name, request)
        else:
            result = _search_store(store, encoder, gallery or name, request)
    except KeyNotFoundError as error:
        raise KeyNotFoundError(
            f"{quoted(image)} is not a file, an image of a dataset or the key of a stored image: {error}"
        ) from error
    if out:
        _write_sheet(out, image, query.subject, result)
    if as_json:
        print(json.dumps(_as_dict(result)))
    else:
        _print_hits(result, image)


def main() -> None:
    """Run the command."""
    terminal.run(app)


IMAGES_GROUP = "lookalike.images"
"""Entry-point group of plug-ins that fetch the image for a query such as "mnist/test/9", an image of a dataset.

An entry point is a function that takes the query, a string, and returns a Pillow image, or None if the plug-in does not
know the query. `search` looks for a file of that name first, then asks the plug-ins, then looks for a stored key.
"""


class _Query(NamedTuple):
    subject: Subject
    exclude_keys: tuple[str, ...] = ()


def _query(text: str) -> _Query:
    if text == "-":
        return _Query(sys.stdin.buffer.read(LIMITS.max_image_bytes + 1))
    if os.path.isfile(text):  # noqa: PTH113 (Path.is_file raises an error if the name is too long)
        return _Query(images.read(Path(text)))
    for plugin in entry_points(group=IMAGES_GROUP):
        image = plugin.load()(text)
        if image is not None:
            return _Query(image, (text,))
    return _Query(Key(text))


def _search_service(client: "Client", gallery: str, request: SearchRequest) -> SearchResult:
    try:
        return client.search(request.subject, gallery, request.options, request.as_is, request.expand)
    except NotFoundError as error:
        spec = client.gallery(gallery)  # raises NotFoundError if the gallery, not the image, is missing
        if not isinstance(request.subject, Key):
            raise
        raise KeyNotFoundError(f"no image {quoted(request.subject.value)} in gallery '{spec.name}'") from error


def _search_store(store: str, encoder: str, gallery: str, request: SearchRequest) -> SearchResult:
    from encoder_service.galleries import Galleries

    with (
        closing(Galleries(open_store(store), load_encoder(encoder) if encoder else None)) as galleries,
        galleries.searcher(gallery) as searcher,
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
        "prepared": result.prepared,
        "expanded_count": result.expanded_count,
        "hits": [
            {
                "key": hit.key,
                "label": hit.label,
                "distance": hit.distance,
                "distance_percentile": hit.distance_percentile,
                "relation": hit.relation,
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
    draw_sheet(picture, name, result.hits).save(file, _SHEET_FORMATS[path.suffix.lower()], optimize=True)
    terminal.write_out(path, file.getvalue())


def _print_hits(result: SearchResult, query: str) -> None:
    """Print hits as a table on stdout. Names and labels are untrusted, so they are never parsed as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"looks like {terminal.printable(query)}", "bold"), title_justify="left")
    table.add_column("", justify="right", style="dim")
    table.add_column("key")
    table.add_column("label")
    table.add_column("distance", justify="right")
    table.add_column("percentile", justify="right")
    table.add_column("relation")
    for rank, hit in enumerate(result.hits, start=1):
        percentile = "" if hit.distance_percentile is None else f"{hit.distance_percentile:.0f}"
        key, label = (Text(terminal.printable(text)) for text in (hit.key, hit.label))
        table.add_row(str(rank), key, label, f"{hit.distance:.3f}", percentile, hit.relation)
    console = Console(markup=False)
    console.print(table)
    if result.prepared:
        console.print(f"prepared: {result.prepared} (--as-is searches for the image as it is)", highlight=False)
    if result.expanded_count:
        console.print(
            f"expanded with its {result.expanded_count} nearest: ranked by the mean, distances are to the query",
            highlight=False,
        )
    if result.is_unusual:
        console.print(
            f"No close match: this query looks less like the gallery than {UNUSUAL_PERCENTILE} % of its own images do.",
            style="yellow",
        )
    console.print(
        f"gallery {result.gallery} v{result.version}, encoder {terminal.printable(result.encoder)}; "
        f"encode {result.encode_ms:.2f} ms, search {result.search_ms:.2f} ms",
        style="dim",
        highlight=False,
    )
