"""The `ingest load` command."""

import json
import os
import shlex
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder_service import terminal
from encoder_service.terminal import (
    CaFileOption,
    CertFileOption,
    EncoderOption,
    JsonOption,
    StoreOption,
    TokenFileOption,
)
from gallery import DEFAULT_STORE, GallerySpec, Placement, Store, open_store
from gallery.errors import InvalidInputError
from gallery.plurals import counted
from gallery.profiles import DEFAULT_PROFILE
from ingest.cli.galleries import DEFAULT_PATIENCE_S, PROFILE_MEANINGS, MemoryOption, PatienceOption, as_dict
from ingest.errors import StoppedError

if TYPE_CHECKING:
    from PIL import Image

    from encoder_service.client import Client
    from encoder_service.encoder import Encoder, EncoderSpec
    from ingest.loading.batches import LoadSummary
    from ingest.loading.build import LoadOptions
    from ingest.sources import Source

# Maximum number of bad images that are printed with their reasons. The rest are only counted.
_SHOWN = 5
# Number of a new source's first images that decide which encoder is its default.
_COMPARED = 8
# Maximum side of an image that may be a digit, in pixels, and maximum difference between two channels of a grey pixel,
# of 255.
_MAX_DIGIT_SIDE, _MAX_TINT = 64, 16


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
        typer.Argument(
            help="mnist, fashion-mnist, or the path of a folder, a .tar, a .zip, an image, a .parquet, an .npz, an "
            ".npy or an IDX file; 'shard-{000..009}.tar' for several."
        ),
    ],
    gallery: Annotated[
        str, typer.Option("--gallery", "--name", help="Name of the gallery. Default: the source's name.")
    ] = "",
    split: Annotated[str, typer.Option(help="Split of the dataset: train, test or all.", show_default="train")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images to load. Default: all.")] = None,
    label_from_folders: Annotated[
        bool, typer.Option("--label-from-folders", help="Label each image with the name of its folder.")
    ] = False,
    label_from: Annotated[str, typer.Option(hidden=True, help="folder: same as --label-from-folders.")] = "",
    labels: Annotated[Path | None, typer.Option(help="CSV or JSONL file with the labels.")] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Leave out files and folders with a matching name or path. Can be repeated."),
    ] = None,
    large_images: Annotated[
        bool, typer.Option("--large-images", help="Also load image files of up to 256 MiB and 512 megapixels.")
    ] = False,
    dedupe: Annotated[
        bool, typer.Option("--dedupe", help="Load only one of several images with the same content.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove images that the source no longer has.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Let --prune or --rebuild remove more than half of a source's images.")
    ] = False,
    rebuild: Annotated[
        bool,
        typer.Option(
            "--rebuild",
            help="Build a new version beside the live one. It keeps the encoder, labels, profile, shards, replicas and "
            "write consistency of the live version unless an option names others.",
        ),
    ] = False,
    keep_added: Annotated[
        bool,
        typer.Option(
            "--keep-added",
            help="With --rebuild, keep images that were added through a service or loaded from other sources.",
        ),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if any image is bad.")] = False,
    max_rejected: Annotated[
        float,
        typer.Option(
            parser=_percent,
            metavar="PERCENT",
            help="Maximum share of bad images. Above it, the load replaces and removes no image, and exits with 3.",
        ),
    ] = 10.0,
    profile: Annotated[
        str,
        typer.Option(
            help=f"Storage profile. New galleries default to balanced; existing ones keep theirs. {PROFILE_MEANINGS}."
        ),
    ] = "",
    memory: MemoryOption = "",
    workers: Annotated[
        int, typer.Option(min=1, help="Number of loading processes. More than 1 needs a Qdrant server.")
    ] = 1,
    shards: Annotated[
        int | None,
        typer.Option(min=1, help="Number of shards of a new gallery on a cluster. Default: the server's setting."),
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Number of nodes that hold each shard. Default: the server's setting.")
    ] = None,
    write_consistency: Annotated[
        int | None,
        typer.Option(min=1, help="Number of nodes that must acknowledge a write. Default: the server's setting."),
    ] = None,
    service: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Send the images to a running service, which encodes and stores them."),
    ] = "",
    replace_stored: Annotated[
        bool,
        typer.Option(
            "--replace", help="With --service, replace images that the gallery has with other content under their keys."
        ),
    ] = False,
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
    encoder: EncoderOption = "",
    store: StoreOption = DEFAULT_STORE,
    patience_s: PatienceOption = DEFAULT_PATIENCE_S,
    as_json: JsonOption = False,
) -> None:
    """Load a source into a gallery.

    Only images that are new or have changed are loaded, so the same command resumes an interrupted load and brings a
    gallery up to date. Bad images are left out and named in the gallery's rejected.jsonl.
    """
    from encoder_service.encoder import load_encoder
    from ingest.loading.build import REJECTED, LoadOptions, check_pruned, check_rejected
    from ingest.plan import memory_amount
    from ingest.sources import Options as SourceOptions
    from ingest.sources import SourceName

    begun = time.perf_counter()
    max_rejected = 0.0 if strict else max_rejected
    options = LoadOptions(dedupe, prune, yes or bool(limit), max_rejected, workers, keep_added=keep_added)
    memory_bytes = memory_amount(memory)
    _check_options(options, source, split, limit, label_from, rebuild, service, large_images, replace_stored)
    building = {
        "--memory": memory,
        "--profile": profile,
        "--encoder": encoder if encoder != os.environ.get("LOOKALIKE_ENCODER") else "",
        "--shards": shards,
        "--replicas": replicas,
        "--write-consistency": write_consistency,
    }
    if service and (given := [name for name, value in building.items() if value]):
        raise InvalidInputError(
            f"expected one of --service and {given[0]}, got both: a load through a service builds nothing"
        )
    source_name = SourceName.parse(source, split or "train")
    reading = SourceOptions(limit, tuple(exclude or ()), prune or rebuild, large_images)
    images = source_name.open(reading, label_from_folders=label_from_folders or bool(label_from), labels=labels)
    if split and not source_name.dataset:
        raise InvalidInputError(f"--split {split}: expected it with a dataset, got {source}, which has no splits")
    gallery = gallery or source_name.default_gallery
    if service:
        with terminal.connect(service, token_file, ca_file, cert_file) as client:
            _load_through_service(client, service, gallery, images, replace_stored, options.max_rejected, as_json)
        return
    galleries = open_store(store, patience_s=patience_s)
    live = next((spec for spec in galleries.list() if spec.name == gallery), None)
    if live and not encoder:
        loaded_encoder = _encoder_of(live, may_be_newer=rebuild and not keep_added)
    else:
        own = source_name.dataset.encoder if source_name.dataset else ""
        loaded_encoder = load_encoder(encoder or own or _default_encoder(images, source, gallery))
    spec, options = _plan(gallery, images.name, loaded_encoder.spec, profile, live, rebuild, options)
    if not live or rebuild:
        _note_profile(spec.profile, images.count, galleries)
    placement = Placement(shards, replicas, write_consistency)
    spec, summary = _load_here(
        galleries, spec, rebuild, bool(live and rebuild), placement, memory_bytes, images, loaded_encoder, options
    )
    summary.seconds["total"] = time.perf_counter() - begun
    _print_summary(spec, summary, store, as_json)
    _print_notes(summary.notes)
    if summary.rejected:
        rejected = galleries.local_folder(gallery) / REJECTED
        with rejected.open(encoding="utf-8") as lines:
            rows = map(json.loads, lines)
            reasons = ((row["key"], row["reason"]) for row in rows if row["source"] == images.name)
            _print_bad(summary.rejected, f", named in {rejected}", reasons)
    check_rejected(summary, options.max_rejected, "new images are loaded, and no stored image was replaced or removed")
    check_pruned(summary)


def _encoder_of(live: GallerySpec, *, may_be_newer: bool) -> "Encoder":
    """Load the encoder of a live version.

    Args:
        live: The live version.
        may_be_newer: Whether to load the encoder that has the name now, even if an earlier one made the live version.
    """
    from encoder_service.encoder import load_encoder

    encoder = load_encoder(live.encoder, "" if may_be_newer else live.fingerprint)
    if may_be_newer and encoder.spec.fingerprint != live.fingerprint:
        print(
            f"note: the live version was made by encoder {live.encoder} ({live.fingerprint[:8]}…); the rebuild uses "
            f"the encoder that has this name now ({encoder.spec.fingerprint[:8]}…)",
            file=sys.stderr,
        )
    return encoder


def _default_encoder(images: "Source", source: str, gallery: str) -> str:
    """Choose an encoder by a source's first images, and print a note that says why and what may be better."""
    from encoder_service.encoder import DEFAULT_ENCODER, PHOTOS_ENCODER
    from encoder_service.errors import ImageError

    for item in islice(images, _COMPARED):
        with suppress(ImageError):
            image = item.image()
            if _is_coloured(image) or max(image.size) > _MAX_DIGIT_SIDE:
                print(
                    f"note: encoder {PHOTOS_ENCODER}, because the images are large or in colour: "
                    f"`autoencoder train {shlex.quote(source)} --name my-{gallery}` makes one that knows them better",
                    file=sys.stderr,
                )
                return PHOTOS_ENCODER
    print(
        f"note: encoder {DEFAULT_ENCODER}, because the images are small and grey, like the digits it was trained on: "
        f"--encoder {PHOTOS_ENCODER} is for other images",
        file=sys.stderr,
    )
    return DEFAULT_ENCODER


def _note_profile(profile: str, image_count: int | None, galleries: Store) -> None:
    """Name the profile for this machine's memory, if searching a local gallery with `profile` takes more."""
    from gallery.memory import available_memory
    from ingest.plan import as_bytes, fitting_profile, serving_bytes

    memory = available_memory()
    if memory is None or not image_count or not galleries.url.startswith("edge:"):
        return
    fitting = fitting_profile(image_count, memory)
    needed = serving_bytes(image_count, profile)
    if fitting != profile and needed > memory:
        print(
            f"note: searching {counted(image_count, 'image')} with profile {profile} takes {as_bytes(needed)} of "
            f"memory, and {as_bytes(memory)} is available: --profile {fitting} takes "
            f"{as_bytes(serving_bytes(image_count, fitting))}",
            file=sys.stderr,
        )


def _is_coloured(image: "Image.Image") -> bool:
    import numpy as np

    pixels = np.asarray(image.convert("RGB").resize((32, 32)), np.int16)
    return bool(np.ptp(pixels, axis=2).max() > _MAX_TINT)


def _check_options(
    options: "LoadOptions",
    source: str,
    split: str,
    limit: int | None,
    label_from: str,
    rebuild: bool,
    service: str,
    large_images: bool,
    replace_stored: bool,
) -> None:
    from ingest.loading.build import check_exclusive_options
    from ingest.sources import SourceName

    if split and "/" in source and SourceName.parse(source).dataset:
        raise InvalidInputError(f"expected one of --split {split} and {source}, got both")
    if label_from not in ("", "folder"):
        raise InvalidInputError(f"--label-from {label_from!r}: expected folder")
    if service and large_images:
        raise InvalidInputError("expected one of --service and --large-images, got both: a service has its own limits")
    if replace_stored and not service:
        raise InvalidInputError("--replace: expected it with --service; other loads replace changed images anyway")
    check_exclusive_options(options, limit=limit, rebuild=rebuild, through_service=bool(service))


def _plan(
    gallery: str,
    source: str,
    encoder: "EncoderSpec",
    profile: str,
    live: GallerySpec | None,
    rebuild: bool,
    options: "LoadOptions",
) -> tuple[GallerySpec, "LoadOptions"]:
    """Return the description of the gallery to build, and the options of the load into it.

    Args:
        gallery: Name of the gallery.
        source: Name of the source.
        encoder: Description of the encoder.
        profile: Storage profile that the user named; "" if the user named no profile.
        live: The live version; None if there is no gallery of this name.
        rebuild: Whether to build a new version.
        options: The options as the user gave them.
    """
    if live and not rebuild and profile not in ("", live.profile):
        raise InvalidInputError(f"gallery '{gallery}' has profile {live.profile}: expected --rebuild to change it")
    spec = GallerySpec(
        gallery,
        encoder.name,
        encoder.fingerprint,
        encoder.code_size,
        profile=profile or (live.profile if live else DEFAULT_PROFILE),
        sources=(source,),
    )
    if rebuild:
        # `prune`: the new version must have only images of the source; `publish_anyway`: it may replace a live version
        # only if few images are bad
        options = replace(options, prune=True, publish_anyway=live is None)
    return spec, options


def _load_here(
    galleries: Store,
    spec: GallerySpec,
    rebuild: bool,
    replaces: bool,
    placement: Placement,
    memory_bytes: int | None,
    images: "Source",
    encoder: "Encoder",
    options: "LoadOptions",
) -> tuple[GallerySpec, "LoadSummary"]:
    """Load without a service: encode the images in this process or its workers, and store them."""
    from ingest.loading.build import load_and_publish
    from ingest.loading.rebuild import live_version
    from ingest.progress import Stages

    try:
        with ExitStack() as stack:
            stages = Stages()
            live = None
            if replaces:
                live = stack.enter_context(live_version(galleries, spec, stages.say, must_copy=options.keep_added))
            build = stack.enter_context(
                closing(
                    galleries.build(
                        spec, rebuild=rebuild, placement=placement, memory_bytes=memory_bytes, say=stages.say
                    )
                )
            )
            stack.enter_context(stages)
            return load_and_publish(build, images, encoder, stages, options, live)
    except KeyboardInterrupt as error:
        raise StoppedError("stopped at once: the same command resumes the load") from error


def _load_through_service(
    client: "Client",
    address: str,
    gallery: str,
    images: "Source",
    replace_stored: bool,
    max_rejected: float,
    as_json: bool,
) -> None:
    from ingest.loading.build import check_rejected
    from ingest.loading.through_service import load_through_service
    from ingest.progress import Stages

    with Stages() as stages:
        summary, bad = load_through_service(client, gallery, images, stages, replace=replace_stored)
    count = client.gallery(gallery).count
    if as_json:
        counts = {name: getattr(summary, name) for name in ("added", "unchanged", "rejected", "held")}
        print(json.dumps({"name": gallery, "count": count, "service": address, **counts}))
    else:
        print(f"{gallery}: {counted(summary.added, 'image')} added, {summary.unchanged:,} unchanged")
        print(f"{count:,} in all, service {address}")
    _print_notes(summary.notes)
    if bad:
        _print_bad(len(bad), "", ((row.key, row.reason) for row in bad))
    check_rejected(summary, max_rejected, "the other images are loaded")


def _print_summary(spec: GallerySpec, summary: "LoadSummary", store: str, as_json: bool) -> None:
    if as_json:
        seconds = {stage: round(value, 3) for stage, value in summary.seconds.items()}
        print(json.dumps({**as_dict(spec, store), **summary.counts(), "seconds": seconds}))
        return
    relabelled = f", {summary.relabelled:,} relabelled" if summary.relabelled else ""
    counts = f"{counted(summary.added, 'image')} added, {summary.unchanged:,} unchanged{relabelled}"
    print(f"{spec.name} v{spec.version}: {counts}")
    if summary.duplicates or summary.pruned:
        print(f"{counted(summary.duplicates, 'duplicate')} left out, {counted(summary.pruned, 'image')} removed")
    if summary.held:
        print(f"{counted(summary.held, 'changed image')} not replaced")
    kept = ((summary.kept, "image"), (summary.kept_labels, "label"))
    if parts := [counted(count, noun) for count, noun in kept if count]:
        print(f"{' and '.join(parts)} kept from the previous version")
    seconds_by_stage = ", ".join(f"{stage} {value:.1f} s" for stage, value in summary.seconds.items())
    print(f"{spec.count:,} in all, encoder {spec.encoder}, {store} ({seconds_by_stage})")


def _print_notes(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _print_bad(count: int, file: str, reasons: Iterable[tuple[str, str]]) -> None:
    """Print the number of bad images, and the first few with their reasons, on stderr."""
    print(f"{counted(count, 'bad image')} left out{file}, such as:", file=sys.stderr)
    for key, reason in islice(reasons, min(count, _SHOWN)):
        print(f"  {key!r}: {reason}", file=sys.stderr)
