"""The command `ingest duplicates`."""

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from encoder_service import terminal
from encoder_service.terminal import JsonOption, StoreOption
from gallery import DEFAULT_STORE, GallerySpec, open_store
from gallery.errors import InvalidInputError
from gallery.findings import add_findings
from ingest.cli.galleries import GalleryArgument

if TYPE_CHECKING:
    from ingest.duplicates import Group


def duplicates(
    gallery: GalleryArgument,
    within: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="DISTANCE",
            help="Largest distance between two codes of the same picture. Default: as measured for the gallery.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of groups to show, the largest first.")] = 100,
    out: Annotated[Path | None, typer.Option(help="Write the groups with thumbnails to this HTML file.")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Find images that are the same picture.

    Groups the stored images that look the same, such as a photograph and its compressed, scaled or slightly cropped
    copies. Nothing is removed.
    """
    from ingest.duplicates import find_duplicates
    from ingest.progress import Stages
    from ingest.report import duplicates_html

    galleries = open_store(store)
    spec = galleries.spec(gallery)
    is_measured = within is None
    within = _measured(spec) if within is None else within
    with closing(galleries.open_for_reading(gallery)) as opened_gallery, Stages() as stages:
        groups = find_duplicates(opened_gallery, within, stages)
        if out:
            terminal.write_out(out, duplicates_html(opened_gallery, within, groups, limit).encode())
    if is_measured:
        add_findings(galleries.local_folder(gallery), duplicate_count=sum(map(len, groups)))
    if as_json:
        print(json.dumps(_as_dict(spec, within, groups, limit)))
    else:
        _print_groups(spec, within, groups, limit)


def _measured(spec: GallerySpec) -> float:
    if spec.calibration is None or spec.calibration.same_distance is None:
        raise InvalidInputError(
            f"--within: expected a distance, because gallery '{spec.name}' has no measured one: name a distance, or "
            "load the gallery's source again to measure it"
        )
    return spec.calibration.same_distance


def _as_dict(spec: GallerySpec, within: float, groups: Sequence["Group"], limit: int) -> dict[str, object]:
    return {
        "gallery": spec.name,
        "version": spec.version,
        "within": within,
        "group_count": len(groups),
        "image_count": sum(map(len, groups)),
        "groups": [[{"key": image.key, "distance": image.distance} for image in group] for group in groups[:limit]],
    }


def _print_groups(spec: GallerySpec, within: float, groups: Sequence["Group"], limit: int) -> None:
    """Print groups as a table on stdout. Keys are untrusted, so they are never parsed as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if groups:
        table = Table("group", "key", "distance")
        table.columns[0].justify = table.columns[2].justify = "right"
        for number, group in enumerate(groups[:limit], start=1):
            for index, image in enumerate(group):
                is_last = index == len(group) - 1
                table.add_row(
                    "" if index else str(number),
                    Text(terminal.printable(image.key)),
                    f"{image.distance:.3f}",
                    end_section=is_last,
                )
        Console(markup=False, highlight=False).print(table)
    if len(groups) > limit:
        print(f"{limit:,} of {len(groups):,} groups shown: --limit {len(groups)} shows all")
    images, noun = sum(map(len, groups)), "group" if len(groups) == 1 else "groups"
    print(
        f"{spec.name} v{spec.version}: {images:,} of {spec.count:,} images in {len(groups):,} {noun}, "
        f"distances of at most {within:.3f}"
    )
