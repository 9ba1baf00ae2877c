"""The `ingest` command."""

import json
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from encoder_service import terminal
from encoder_service.encoder import load_encoder
from encoder_service.terminal import DEFAULT_STORE, EncoderOption, JsonOption, StoreOption
from gallery import GallerySpec, open_store

app = typer.Typer(
    help="Load images into galleries, and see to the galleries.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


@app.command()
def load(
    source: Annotated[str, typer.Argument(help="mnist, fashion-mnist, or a folder of images.")],
    name: Annotated[str, typer.Option(help="Name of the gallery; the source's name if not given.")] = "",
    split: Annotated[str, typer.Option(help="Part of the dataset: train, test or all.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Load at most so many images.")] = None,
    encoder: EncoderOption = "",
    store: StoreOption = DEFAULT_STORE,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build a new version beside the live one.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Load a source into a gallery. Loading it again adds only what is not there yet."""
    from ingest.pipeline import calibrate
    from ingest.pipeline import load as run_pipeline
    from ingest.progress import Stages
    from ingest.sources import default_encoder, default_gallery, open_source

    begun = time.perf_counter()
    images = open_source(source, split, limit)
    galleries = open_store(store)
    name = name or default_gallery(source)
    live = None if rebuild else next((spec for spec in galleries.list() if spec.name == name), None)
    made_by = load_encoder(encoder or (live.encoder if live else default_encoder(source)))
    made = made_by.spec
    wanted = GallerySpec(name, made.name, made.fingerprint, made.code_size, sources=(images.name,))
    with closing(galleries.build(wanted, rebuild=rebuild)) as build, Stages() as stages:
        done = run_pipeline(images, made_by, build.gallery, stages)
        with stages.stage("indexing", None), done.timed("index"):
            build.index()
        spec = build.publish(calibrate(done.errors, build.gallery))
    done.seconds["total"] = time.perf_counter() - begun
    for key, reason in images.rejected:
        print(f"rejected {key}: {reason}", file=sys.stderr)
    if as_json:
        counts = {"added": done.added, "unchanged": done.unchanged, "rejected": len(images.rejected)}
        seconds = {stage: round(value, 3) for stage, value in done.seconds.items()}
        print(json.dumps({**_as_dict(spec, store), **counts, "seconds": seconds}))
    else:
        parts = ", ".join(f"{stage} {value:.1f} s" for stage, value in done.seconds.items())
        print(f"{spec.name} v{spec.version}: {done.added:,} images added, {done.unchanged:,} were there already")
        print(f"{spec.count:,} in all, encoder {spec.encoder}, {store} ({parts})")


@app.command("list")
def list_galleries(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List the galleries."""
    specs = open_store(store).list()
    if as_json:
        print(json.dumps([_as_dict(spec, store) for spec in specs]))
        return
    if not specs:
        print(f"no galleries in {store}: build one with `ingest load mnist`")
    for spec in specs:
        print(f"{spec.name} v{spec.version}: {spec.count:,} images, encoder {spec.encoder}, {', '.join(spec.sources)}")


@app.command()
def drop(
    name: Annotated[str, typer.Argument(help="Name of the gallery.")],
    store: StoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Remove a gallery with all its versions."""
    galleries = open_store(store)
    spec = galleries.spec(name)
    if not yes:
        typer.confirm(f"Remove gallery '{name}' with {spec.count:,} images from {store}?", abort=True, err=True)
    galleries.drop(name)
    print(f"dropped {name}")


@app.command()
def evaluate(
    name: Annotated[str, typer.Argument(help="Name of the gallery.")],
    queries: Annotated[
        str, typer.Option(metavar="SOURCE", help="Labelled images, such as mnist/test; the gallery's own if not given.")
    ] = "",
    sample: Annotated[int | None, typer.Option(min=1, help="At most so many queries.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write a report with pictures, as HTML.")] = None,
    store: StoreOption = DEFAULT_STORE,
    encoder: EncoderOption = "",
    as_json: JsonOption = False,
) -> None:
    """Measure how well a gallery answers, by the labels of queries. A query never answers itself."""
    from ingest.evaluate import evaluate as run_evaluation
    from ingest.progress import Stages
    from ingest.report import html
    from ingest.sources import open_source

    galleries = open_store(store)
    spec = galleries.spec(name)
    made_by = load_encoder(encoder or spec.encoder)
    spec.check_encoder(made_by.spec.name, made_by.spec.fingerprint)
    source = open_source(queries) if queries else None
    with closing(galleries.open(name)) as gallery, Stages() as stages:
        evaluation = run_evaluation(gallery, made_by, source, sample, stages)
    if out:
        terminal.write_out(out, html(spec, evaluation).encode())
    figures = evaluation.as_dict()
    if as_json:
        print(json.dumps(figures))
        return
    print(
        f"{figures['query_count']:,} queries against {figures['gallery_count']:,} images, encoder {figures['encoder']}"
    )
    for key in ("precision_at_1", "precision_at_5", "map_at_5", "recall_at_5"):
        print(f"{key:<16}{figures[key]:.4f}")


def main() -> None:
    """Run the command."""
    terminal.run(app)


def _as_dict(spec: GallerySpec, store: str) -> dict[str, object]:
    return {
        "name": spec.name,
        "version": spec.version,
        "count": spec.count,
        "encoder": spec.encoder,
        "fingerprint": spec.fingerprint,
        "store": store,
    }
