"""The `ingest load` command."""

import json
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder_service import terminal
from encoder_service.encoder import load_encoder
from encoder_service.terminal import (
    CaFileOption,
    CertFileOption,
    EncoderOption,
    JsonOption,
    StoreOption,
    TokenFileOption,
)
from gallery import DEFAULT_STORE, GallerySpec, Placement, open_store
from gallery.errors import InvalidInputError
from gallery.profiles import DEFAULT_PROFILE, PROFILES
from ingest.errors import StoppedError

if TYPE_CHECKING:
    from encoder_service.client import Client
    from ingest.sources import Source

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


def load(
    source: Annotated[
        str,
        typer.Argument(help="mnist, fashion-mnist, or the path of a folder, a .tar, a .zip, an .npz or an IDX file."),
    ],
    name: Annotated[str, typer.Option(help="Name of the gallery; the source's name if not given.")] = "",
    split: Annotated[str, typer.Option(help="Part of the dataset: train, test or all.", show_default="train")] = "",
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
    cert_file: CertFileOption = None,
    encoder: EncoderOption = "",
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Load a source into a gallery. Loading it again goes on where it stopped, and takes only what is new or changed.

    Bad images are left out, and named in the gallery's rejected.jsonl.
    """
    from ingest.loading.build import REJECTED, LoadOptions, check_rejected, load_and_publish
    from ingest.progress import Stages
    from ingest.sources import default_encoder, default_gallery, is_dataset, open_source, place_of

    begun = time.perf_counter()
    if split and "/" in source and is_dataset(source):
        raise InvalidInputError(f"expected one of --split {split} and {source}, got both")
    split = split or "train"
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
        with terminal.connect(service, token_file, ca_file, cert_file) as client:
            _load_through_service(client, service, name, images, 0.0 if strict else max_rejected, as_json)
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
    terms = LoadOptions(
        dedupe, prune or rebuild, 0.0 if strict else max_rejected, workers, publish_anyway=not (rebuild and live)
    )
    try:
        with closing(galleries.build(wanted, rebuild=rebuild, placement=placement)) as build, Stages() as stages:
            spec, done = load_and_publish(build, images, place_of(source, split), made_by, stages, terms)
    except (StoppedError, KeyboardInterrupt) as error:
        print(str(error) or "stopped: the same command goes on", file=sys.stderr)
        raise typer.Exit(130) from error
    done.seconds["total"] = time.perf_counter() - begun
    rejected = galleries.local_folder(name) / REJECTED
    if as_json:
        counts = {key: getattr(done, key) for key in ("added", "unchanged", "duplicates", "rejected", "pruned")}
        seconds = {stage: round(value, 3) for stage, value in done.seconds.items()}
        print(json.dumps({**as_dict(spec, store), **counts, "seconds": seconds}))
    else:
        parts = ", ".join(f"{stage} {value:.1f} s" for stage, value in done.seconds.items())
        print(f"{spec.name} v{spec.version}: {done.added:,} images added, {done.unchanged:,} were there already")
        if done.duplicates or done.pruned:
            print(f"{done.duplicates:,} duplicates left out, {done.pruned:,} removed that the source no longer has")
        print(f"{spec.count:,} in all, encoder {spec.encoder}, {store} ({parts})")
    if done.rejected:
        with rejected.open(encoding="utf-8") as lines:
            rows = map(json.loads, lines)
            _print_bad(done.rejected, f", named in {rejected}", ((row["key"], row["reason"]) for row in rows))
    check_rejected(done, terms.max_rejected, "the others are in")


def _load_through_service(
    client: "Client", address: str, name: str, images: "Source", allowed: float, as_json: bool
) -> None:
    from ingest.loading.build import check_rejected
    from ingest.loading.through_service import load_through_service
    from ingest.progress import Stages

    with Stages() as stages:
        done, bad = load_through_service(client, name, images, stages)
    count = client.gallery(name).count
    counts = {"added": done.added, "unchanged": done.unchanged, "rejected": done.rejected}
    if as_json:
        print(json.dumps({"name": name, "count": count, "service": address, **counts}))
    else:
        print(f"{name}: {done.added:,} images added, {done.unchanged:,} were there already")
        print(f"{count:,} in all, service {address}")
    if bad:
        _print_bad(len(bad), "", ((row.key, row.reason) for row in bad))
    check_rejected(done, allowed, "the others are in")


def _print_bad(count: int, where: str, reasons: Iterable[tuple[str, str]]) -> None:
    """Print how many images are bad, and the first few with their reasons."""
    print(f"{count:,} bad images left out{where}, such as:", file=sys.stderr)
    for key, reason in islice(reasons, _SHOWN):
        print(f"  {key!r}: {reason}", file=sys.stderr)


def as_dict(spec: GallerySpec, store: str) -> dict[str, object]:
    """Return what a command prints of a gallery with --json."""
    return {
        "name": spec.name,
        "version": spec.version,
        "count": spec.count,
        "encoder": spec.encoder,
        "fingerprint": spec.fingerprint,
        "profile": spec.profile,
        "store": store,
    }
