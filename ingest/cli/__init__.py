"""The `ingest` command."""

import json
import sys
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from encoder_service import terminal
from encoder_service.encoder import load_encoder
from encoder_service.terminal import EncoderOption, JsonOption, StoreOption
from gallery import DEFAULT_STORE, open_store
from gallery.errors import InvalidInputError, NewerFormatError, StoreDamagedError
from gallery.profiles import DEFAULT_PROFILE, PROFILES
from ingest.cli.load import ProfileOption, as_dict, load
from ingest.errors import GalleryUnsoundError

app = typer.Typer(
    help="Load images into galleries, and see to the galleries.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)

app.command()(load)


@app.command("list")
def list_galleries(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List the galleries."""
    specs = open_store(store).list()
    if as_json:
        print(json.dumps([{**as_dict(spec, store), "sources": spec.sources} for spec in specs]))
        return
    if not specs:
        print(f"no galleries in {store}: build one with `ingest load mnist`")
    for spec in specs:
        print(
            f"{spec.name} v{spec.version}: {spec.count:,} images, encoder {spec.encoder}, profile {spec.profile}, "
            f"{', '.join(spec.sources)}"
        )


@app.command()
def drop(
    name: Annotated[str, typer.Argument(help="Name of the gallery.")],
    store: StoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Remove a gallery with all its versions."""
    galleries = open_store(store)
    try:
        what = f"gallery '{name}' with {galleries.spec(name).count:,} images"
    except (StoreDamagedError, NewerFormatError):
        what = f"gallery '{name}', which can't be read,"
    if not yes:
        typer.confirm(f"Remove {what} from {store}?", abort=True, err=True)
    galleries.drop(name)
    print(f"dropped {name}")


@app.command()
def clean(
    name: Annotated[str, typer.Argument(help="Name of the gallery; all if not given.")] = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Remove the versions of a gallery that are no longer live, nor open in a service."""
    galleries = open_store(store)
    for spec in [galleries.spec(name)] if name else galleries.list():
        removed = galleries.clean(spec.name)
        versions = ", ".join(f"v{version}" for version in removed) or "nothing"
        print(f"{spec.name} v{spec.version}: removed {versions}")


@app.command()
def backup(
    name: Annotated[str, typer.Argument(help="Name of the gallery.")],
    file: Annotated[Path, typer.Argument(help="File to write, such as mnist.tar.gz.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a gallery into one file, with the sum of everything in it. A service may have the gallery open."""
    from ingest.progress import Stages

    with Stages() as stages, stages.stage("writing", None):
        spec = open_store(store).backup(name, file)
    print(f"{file}: {spec.name} v{spec.version}, {spec.count:,} images, {file.stat().st_size / 1e6:,.1f} MB")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file from `ingest backup`.")],
    name: Annotated[str, typer.Option(help="Name for the gallery; that which it had if not given.")] = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Make what a backup holds the live version of a gallery, beside the one before. A damaged file is refused."""
    from ingest.progress import Stages

    with Stages() as stages, stages.stage("restoring", None):
        spec = open_store(store).restore(file, name)
    print(f"{spec.name} v{spec.version}: {spec.count:,} images, encoder {spec.encoder}, {store}")


@app.command("copy")
def copy_gallery(
    name: Annotated[str, typer.Argument(help="Name of the gallery.")],
    source: Annotated[
        str, typer.Option("--from", metavar="URL", help="Store that has it: edge:DIR or http://HOST:6333.")
    ],
    target: Annotated[str, typer.Option("--to", metavar="URL", help="Store that is to have it.")],
    profile: ProfileOption = "",
) -> None:
    """Copy a gallery from one store to another, without encoding anything again.

    The same command goes on where it was cut off. The copy is verified before it goes live.
    """
    from ingest.copy import copy
    from ingest.progress import Stages

    if source == target:
        raise InvalidInputError(f"expected two stores, got {source} twice")
    with Stages() as stages:
        spec, written = copy(open_store(source), open_store(target), name, stages, profile)
    print(
        f"{spec.name} v{spec.version}: {spec.count:,} images in {target}, {written:,} written, profile {spec.profile}"
    )


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Name of the gallery.")],
    sample: Annotated[int, typer.Option(min=0, help="How many images to encode again.")] = 200,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Compare a gallery with its ledger, its files with their sums, and a sample of its codes with its sources."""
    from ingest.loading.verify import check as check_gallery
    from ingest.progress import Stages

    galleries = open_store(store)
    try:
        with Stages() as stages:
            problems, compared = check_gallery(galleries, name, sample, stages)
    except StoreDamagedError as error:
        problems, compared = [str(error)], 0
    for problem in problems:
        print(f"{name}: {problem}")
    if problems:
        raise GalleryUnsoundError(
            f"gallery '{name}' is not sound: build it again with `ingest load … --name {name} --rebuild`, or bring "
            f"back a backup with `ingest restore FILE --name {name}`"
        )
    spec = galleries.spec(name)
    print(f"{name} v{spec.version}: sound: {spec.count:,} images, its files as built, {compared:,} codes made again")


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


@app.command("plan")
def plan_gallery(
    images: Annotated[str, typer.Option(help="How many, such as 60000, 100M or 1B.")],
    profile: Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}.")] = DEFAULT_PROFILE,
    nodes: Annotated[int | None, typer.Option(min=1, help="Qdrant nodes; as few as will do if not given.")] = None,
    ram: Annotated[str, typer.Option(help="Memory of a node.")] = "16GB",
    replicas: Annotated[int, typer.Option(min=1, help="Nodes that hold each code.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Reckon the memory, disk, time and nodes that a gallery takes, from what was measured."""
    from ingest.plan import amount, as_bytes, as_time, plan

    count = amount(images, "--images")
    planned = plan(count, profile, amount(ram, "--ram"), nodes, replicas)
    if as_json:
        print(json.dumps(asdict(planned)))
        return
    print(f"{count:,.0f} images, profile {profile}, {replicas} replica{'s' * (replicas > 1)}, nodes of {ram}")
    print(f"nodes   {planned.nodes:,}")
    print(f"RAM     {as_bytes(planned.ram_bytes)} in all, {as_bytes(planned.ram_bytes / planned.nodes)} a node")
    print(f"disk    {as_bytes(planned.disk_bytes)} in all, {as_bytes(planned.disk_bytes / planned.nodes)} a node")
    print(f"load    {as_time(planned.load_s)}")
    print(f"index   {as_time(planned.index_s)}")
    print()
    for line in planned.formula:
        print(line)
    if planned.nodes < planned.fewest_nodes:
        print(
            f"note: {planned.nodes:,} of these nodes have too little memory, and searches would wait for the disk: "
            f"expected {planned.fewest_nodes:,}, or more --ram",
            file=sys.stderr,
        )


def main() -> None:
    """Run the command."""
    terminal.run(app)
