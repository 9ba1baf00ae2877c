"""The commands that manage galleries: `ingest list`, `drop`, `clean`, `compact`, `backup`, `restore` and `copy`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from encoder_service import terminal
from encoder_service.terminal import CaFileOption, CertFileOption, JsonOption, StoreOption, TokenFileOption
from gallery import DEFAULT_STORE, GallerySpec, open_store
from gallery.errors import InvalidInputError, NewerFormatError, StoreDamagedError
from gallery.plurals import counted
from gallery.profiles import PROFILES
from ingest.errors import StoppedError

GalleryArgument = Annotated[str, typer.Argument(help="Name of the gallery.")]

DEFAULT_PATIENCE_S = 60.0
"""Seconds for which a load waits for a server that can't be reached. A Qdrant server with large galleries restarts in
about half this time."""
PatienceOption = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="Time to wait for a Qdrant server that can't be reached, such as while it restarts.",
    ),
]

MemoryOption = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="Memory to build the gallery in, such as 512MB or 4GB, including the page cache. Less memory makes more "
        "segments. On a Qdrant server, the memory of a node. Default: what is available.",
    ),
]

PROFILE_MEANINGS = ", ".join(f"{profile.name} ({profile.meaning})" for profile in PROFILES.values())


def list_galleries(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = False) -> None:
    """List the galleries."""
    galleries = open_store(store)
    specs = galleries.list()
    if as_json:
        print(json.dumps([{**as_dict(spec, store), "sources": spec.sources} for spec in specs]))
        return
    if not galleries.names():
        print(f"no galleries in {store}: build one with `ingest load mnist`")
    for spec in specs:
        print(
            f"{spec.name} v{spec.version}: {counted(spec.count, 'image')}, encoder {spec.encoder}, "
            f"profile {spec.profile}, {', '.join(spec.sources)}"
        )


def drop(
    gallery: GalleryArgument,
    store: StoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove a gallery with all its versions."""
    galleries = open_store(store)
    try:
        description = f"gallery '{gallery}' with {counted(galleries.spec(gallery).count, 'image')}"
    except (StoreDamagedError, NewerFormatError):
        description = f"gallery '{gallery}', which can't be read,"
    if not yes:
        if not sys.stdin.isatty():
            raise terminal.UsageError(f"to remove {description} without a terminal to ask on, add --yes")
        if not typer.confirm(f"Remove {description} from {store}?", err=True):
            raise StoppedError(f"gallery '{gallery}' stays")
    galleries.drop(gallery)
    print(f"dropped {gallery}")


def clean(
    gallery: Annotated[str, typer.Argument(help="Name of the gallery. Default: all.")] = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Remove old versions of galleries.

    The live version stays, and so does every version that a service has open.
    """
    galleries = open_store(store)
    for spec in [galleries.spec(gallery)] if gallery else galleries.list():
        removed = galleries.clean(spec.name)
        versions = ", ".join(f"v{version}" for version in removed) or "nothing"
        print(f"{spec.name} v{spec.version}: removed {versions}")


def compact(
    gallery: GalleryArgument,
    store: StoreOption = DEFAULT_STORE,
    service: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Running service that has the gallery open, and compacts it."),
    ] = "",
    token_file: TokenFileOption = None,
    ca_file: CaFileOption = None,
    cert_file: CertFileOption = None,
) -> None:
    """Index a gallery anew, from its stored codes.

    Makes searches quick again after many images have been added through a service, and gives back the space of deleted
    images. A service does this by itself once it is worthwhile. A Qdrant server needs no compaction, because it keeps
    its index up to date.
    """
    from ingest.compact import compact, compact_through_service
    from ingest.progress import Stages

    with Stages() as stages:
        if service:
            with terminal.connect(service, token_file, ca_file, cert_file) as client:
                spec = compact_through_service(client, gallery, stages)
        else:
            spec = compact(open_store(store), gallery, stages)
    if spec is None:
        print(f"{gallery}: nothing to do, because a Qdrant server keeps its index up to date")
    else:
        print(f"{spec.name} v{spec.version}: {counted(spec.count, 'image')} indexed anew")


def backup(
    gallery: GalleryArgument,
    file: Annotated[Path, typer.Argument(help="File to write, such as mnist.tar.gz.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write a gallery into one file.

    The file has checksums of all its content. A service may have the gallery open, but must not modify it during the
    backup.
    """
    from ingest.progress import Stages

    with Stages() as stages, stages.stage("writing", None):
        spec = open_store(store).backup(gallery, file)
    print(f"{file}: {spec.name} v{spec.version}, {counted(spec.count, 'image')}, {file.stat().st_size / 1e6:,.1f} MB")


def restore(
    file: Annotated[Path, typer.Argument(help="A file from `ingest backup`.")],
    gallery: Annotated[
        str, typer.Option("--gallery", "--name", help="Name for the gallery. Default: the name in the backup.")
    ] = "",
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Restore a gallery from a backup.

    The restored version becomes the live one. The previous version stays until `ingest clean`. A damaged or incomplete
    file is rejected.
    """
    from ingest.progress import Stages

    with Stages() as stages, stages.stage("restoring", None):
        spec = open_store(store).restore(file, gallery)
    print(f"{spec.name} v{spec.version}: {counted(spec.count, 'image')}, encoder {spec.encoder}, {store}")


def copy_gallery(
    gallery: GalleryArgument,
    source: Annotated[
        str, typer.Option("--from", metavar="URL", help="Store that has the gallery: edge:DIR or http://HOST:6333.")
    ],
    target: Annotated[str, typer.Option("--to", metavar="URL", help="Store that receives the copy.")],
    profile: Annotated[
        str, typer.Option(help=f"Storage profile of the copy. Default: the original's. {PROFILE_MEANINGS}.")
    ] = "",
    memory: MemoryOption = "",
    patience_s: PatienceOption = DEFAULT_PATIENCE_S,
) -> None:
    """Copy a gallery from one store to another.

    Nothing is encoded again. The same command resumes an interrupted copy. The copy is verified before it goes live.
    """
    from ingest.copy import copy
    from ingest.plan import memory_amount
    from ingest.progress import Stages

    memory_bytes = memory_amount(memory)
    if source == target:
        raise InvalidInputError(f"expected two stores, got {source} twice")
    with Stages() as stages:
        from_store, to_store = (open_store(url, patience_s=patience_s) for url in (source, target))
        spec, written = copy(from_store, to_store, gallery, stages, profile, memory_bytes)
    print(
        f"{spec.name} v{spec.version}: {counted(spec.count, 'image')} in {target}, {written:,} written, "
        f"profile {spec.profile}"
    )


def as_dict(spec: GallerySpec, store: str) -> dict[str, object]:
    """Return the fields of a gallery that the commands print with --json."""
    return {
        "name": spec.name,
        "version": spec.version,
        "count": spec.count,
        "encoder": spec.encoder,
        "fingerprint": spec.fingerprint,
        "profile": spec.profile,
        "store": store,
    }
