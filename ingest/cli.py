"""The `ingest` command."""

import json
import sys
import time
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder_service import terminal
from encoder_service.encoder import load_encoder
from encoder_service.terminal import (
    DEFAULT_STORE,
    CaFileOption,
    EncoderOption,
    JsonOption,
    StoreOption,
    TokenFileOption,
)
from gallery import GallerySpec, Placement, open_store
from gallery.errors import InvalidInputError, StoreDamagedError
from gallery.profiles import DEFAULT_PROFILE, PROFILES
from ingest.errors import GalleryUnsoundError, StoppedError

if TYPE_CHECKING:
    from encoder_service.client import Client
    from ingest.sources import Source

app = typer.Typer(
    help="Load images into galleries, and see to the galleries.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


# So many bad images are named on the terminal.
_SHOWN = 5

ProfileOption = Annotated[
    str,
    typer.Option(
        help="What is kept where; balanced for a new gallery, as it is for another. "
        + "; ".join(f"{profile.name}: {profile.meaning}" for profile in PROFILES.values())
        + "."
    ),
]


def _percent(text: str | float) -> float:
    try:
        value = float(str(text).removesuffix("%"))
    except ValueError:
        value = -1
    if not 0 <= value <= 100:
        raise typer.BadParameter(f"expected 0 to 100 percent, got {text!r}")
    return value


@app.command()
def load(
    source: Annotated[
        str,
        typer.Argument(help="mnist, fashion-mnist, or the path of a folder, a .tar, a .zip, an .npz or an IDX file."),
    ],
    name: Annotated[str, typer.Option(help="Name of the gallery; the source's name if not given.")] = "",
    split: Annotated[str, typer.Option(help="Part of the dataset: train, test or all.")] = "train",
    limit: Annotated[int | None, typer.Option(min=1, help="Load at most so many images.")] = None,
    label_from: Annotated[
        str, typer.Option(metavar="folder", help="Label each image with the name of the folder that it is in.")
    ] = "",
    labels: Annotated[Path | None, typer.Option(help="Take labels from a CSV or JSONL file.")] = None,
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Keep only the first of images with the same content.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove images that the source no longer has.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build a new version beside the live one.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if a single image is bad.")] = False,
    max_rejected: Annotated[
        float, typer.Option(parser=_percent, metavar="PERCENT", help="Exit with 3 if more images than this are bad.")
    ] = 10.0,
    profile: ProfileOption = "",
    workers: Annotated[int, typer.Option(min=1, help="Load in so many processes; for a server.")] = 1,
    shards: Annotated[int | None, typer.Option(min=1, help="Parts to spread over a cluster; the server's own.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Nodes that hold each part.")] = None,
    write_consistency: Annotated[
        int | None, typer.Option(min=1, help="Nodes that must have taken a write before it counts.")
    ] = None,
    service: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Add to a gallery of a running service, which encodes and stores.")
    ] = "",
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    encoder: EncoderOption = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Load a source into a gallery. Loading it again goes on where it stopped, and takes only what is new or changed.

    Bad images are left out, and named in the gallery's rejected.jsonl.
    """
    from ingest.build import REJECTED, Terms, check_rejected, fill
    from ingest.progress import Stages
    from ingest.sources import default_encoder, default_gallery, open_source, place_of

    begun = time.perf_counter()
    if prune and limit:
        raise InvalidInputError("expected one of --prune and --limit, got both: all beyond the limit would be removed")
    if dedupe and workers > 1:
        raise InvalidInputError("expected one of --dedupe and --workers, got both: no worker sees what another stores")
    images = open_source(source, split, limit, label_from=label_from, labels=labels)
    name = name or default_gallery(source)
    if service:
        if dedupe or prune or rebuild or workers > 1:
            raise InvalidInputError(
                "--service only adds: expected it without --dedupe, --prune, --rebuild and --workers"
            )
        with terminal.connect(service, token_file, ca_file) as client:
            _load_through(client, service, name, images, 0.0 if strict else max_rejected, as_json)
        return
    galleries = open_store(store)
    live = next((spec for spec in galleries.list() if spec.name == name), None)
    made_by = load_encoder(encoder or (live.encoder if live and not rebuild else default_encoder(source)))
    made = made_by.spec
    if live and not rebuild and profile not in ("", live.profile):
        raise InvalidInputError(f"gallery '{name}' has profile {live.profile}: expected --rebuild to give it another")
    stored = profile or (live.profile if live else DEFAULT_PROFILE)
    wanted = GallerySpec(name, made.name, made.fingerprint, made.code_size, profile=stored, sources=(images.name,))
    placement = Placement(shards, replicas, write_consistency)
    # a new version is to be like the source, and one of bad images must not take the place of a good one
    terms = Terms(
        dedupe, prune or rebuild, 0.0 if strict else max_rejected, workers, publish_anyway=not (rebuild and live)
    )
    try:
        with closing(galleries.build(wanted, rebuild=rebuild, placement=placement)) as build, Stages() as stages:
            spec, done = fill(build, images, place_of(source, split), made_by, stages, terms)
    except (StoppedError, KeyboardInterrupt) as error:
        print(str(error) or "stopped: the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from error
    done.seconds["total"] = time.perf_counter() - begun
    rejected = galleries.folder(name) / REJECTED
    if as_json:
        counts = {key: getattr(done, key) for key in ("added", "unchanged", "duplicates", "rejected", "pruned")}
        seconds = {stage: round(value, 3) for stage, value in done.seconds.items()}
        print(json.dumps({**_as_dict(spec, store), **counts, "seconds": seconds}))
    else:
        parts = ", ".join(f"{stage} {value:.1f} s" for stage, value in done.seconds.items())
        print(f"{spec.name} v{spec.version}: {done.added:,} images added, {done.unchanged:,} were there already")
        if done.duplicates or done.pruned:
            print(f"{done.duplicates:,} duplicates left out, {done.pruned:,} removed that the source no longer has")
        print(f"{spec.count:,} in all, encoder {spec.encoder}, {store} ({parts})")
    if done.rejected:
        print(f"{done.rejected:,} bad images left out, named in {rejected}, such as:", file=sys.stderr)
        _print_first_lines(rejected)
    check_rejected(done, terms.max_rejected, "the others are in")


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
    spec = galleries.spec(name)
    if not yes:
        typer.confirm(f"Remove gallery '{name}' with {spec.count:,} images from {store}?", abort=True, err=True)
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
    from ingest.progress import Stages
    from ingest.verify import check as check_gallery

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


def main() -> None:
    """Run the command."""
    terminal.run(app)


def _load_through(client: "Client", address: str, name: str, images: "Source", allowed: float, as_json: bool) -> None:
    from ingest.build import check_rejected
    from ingest.progress import Stages
    from ingest.through_service import load_through

    with Stages() as stages:
        done, bad = load_through(client, name, images, stages)
    count = client.gallery(name).image_count
    counts = {"added": done.added, "unchanged": done.unchanged, "rejected": done.rejected}
    if as_json:
        print(json.dumps({"name": name, "count": count, "service": address, **counts}))
    else:
        print(f"{name}: {done.added:,} images added, {done.unchanged:,} were there already")
        print(f"{count:,} in all, service {address}")
    for row in bad[:_SHOWN]:
        print(f"  {row.key!r}: {row.reason}", file=sys.stderr)
    check_rejected(done, allowed, "the others are in")


def _print_first_lines(rejected: Path) -> None:
    with rejected.open(encoding="utf-8") as lines:
        for line in islice(lines, _SHOWN):
            row = json.loads(line)
            print(f"  {row['key']!r}: {row['reason']}", file=sys.stderr)


def _as_dict(spec: GallerySpec, store: str) -> dict[str, object]:
    return {
        "name": spec.name,
        "version": spec.version,
        "count": spec.count,
        "encoder": spec.encoder,
        "fingerprint": spec.fingerprint,
        "profile": spec.profile,
        "store": store,
    }
