"""The commands that assess a gallery: `ingest check` and `ingest evaluate`."""

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from encoder_service import terminal
from encoder_service.terminal import EncoderOption, JsonOption, StoreOption
from gallery import DEFAULT_STORE, open_store
from gallery.errors import StoreDamagedError
from gallery.findings import add_findings
from gallery.plurals import counted
from ingest.cli.galleries import GalleryArgument
from ingest.errors import GalleryUnsoundError


def check(
    gallery: GalleryArgument,
    sample: Annotated[int, typer.Option(min=0, help="Number of images to encode again.")] = 200,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Check a gallery for damage.

    Compares the gallery's files with their checksums, and its images with its ledger. Encodes a sample of the images
    again, and compares the codes with the stored ones. Exits with 3 if there is a problem.
    """
    from ingest.loading import verify
    from ingest.progress import Stages

    galleries = open_store(store)
    try:
        with Stages() as stages:
            problems, compared = verify.check(galleries, gallery, sample, stages)
    except StoreDamagedError as error:
        problems, compared = [str(error)], 0
    for problem in problems:
        print(f"{gallery}: {problem}")
    if problems:
        raise GalleryUnsoundError(
            f"gallery '{gallery}' is not sound: restore a backup with `ingest restore FILE --gallery {gallery}`, or "
            f"build it again with `ingest load … --gallery {gallery} --rebuild`, which leaves out images that a "
            "service has added"
        )
    spec = galleries.spec(gallery)
    print(
        f"{gallery} v{spec.version}: sound: {counted(spec.count, 'image')}, files unchanged, "
        f"{counted(compared, 'code')} compared"
    )


def evaluate(
    gallery: GalleryArgument,
    queries: Annotated[
        str,
        typer.Option(metavar="SOURCE", help="Labelled images, such as mnist/test. Default: the gallery's own images."),
    ] = "",
    sample: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of queries, spread evenly over the images. Default: all.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write a report with pictures to this HTML file.")] = None,
    store: StoreOption = DEFAULT_STORE,
    encoder: EncoderOption = "",
    as_json: JsonOption = False,
) -> None:
    """Measure how well searches of a gallery work.

    Searches for labelled images, and counts the hits with the same label. An image's own entry does not count as a hit.
    """
    from encoder_service.encoder import load_encoder
    from ingest.evaluate import evaluate as run_evaluation
    from ingest.loading.keys import with_known_keys
    from ingest.loading.ledger import FILE, Ledger
    from ingest.progress import Stages
    from ingest.report import html
    from ingest.sources import open_source

    galleries = open_store(store)
    spec = galleries.spec(gallery)
    loaded_encoder = load_encoder(encoder or spec.encoder, "" if encoder else spec.fingerprint)
    spec.check_encoder(loaded_encoder.spec.name, loaded_encoder.spec.fingerprint)
    source = open_source(queries) if queries else None
    if source and (galleries.local_folder(gallery) / FILE).exists():
        with closing(Ledger(galleries.local_folder(gallery))) as ledger:
            source = with_known_keys(source, ledger)
    with closing(galleries.open_for_reading(gallery)) as opened_gallery, Stages() as stages:
        evaluation = run_evaluation(opened_gallery, loaded_encoder, source, sample, stages)
    figures = evaluation.as_dict()
    add_findings(
        galleries.local_folder(gallery), precision_at_5=figures["precision_at_5"], query_count=len(evaluation.answered)
    )
    if as_json:
        print(json.dumps(figures))
    else:
        query_count, image_count = len(evaluation.answered), evaluation.gallery_count
        print(f"{counted(query_count, 'query')} against {counted(image_count, 'image')}, encoder {evaluation.encoder}")
        for key in ("precision_at_1", "precision_at_5", "map_at_5"):
            print(f"{key:<19}{figures[key]:.4f}")
        recall = figures["index_recall_at_5"]
        print(
            f"index_recall_at_5  {recall:.4f} of the five nearest codes are found by the index, whatever their labels"
        )
    if out:
        terminal.write_out(out, html(spec, evaluation).encode())
