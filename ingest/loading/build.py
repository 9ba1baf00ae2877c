"""Building a version of a gallery: load, index, verify, publish."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from encoder_service.encoder import Encoder
from gallery import Build, GallerySpec
from gallery.errors import InvalidInputError, StoreDamagedError, StoreUnreachableError
from gallery.files import replacing
from ingest.errors import RejectedError, SourceError, StoppedError
from ingest.interrupt import stop_on_signal
from ingest.loading.batches import LoadSummary
from ingest.loading.calibration import calibrate
from ingest.loading.ledger import Ledger, Status
from ingest.loading.pipeline import load
from ingest.loading.verify import code_problems, count_problems
from ingest.loading.workers import load_in_parallel
from ingest.progress import Stages
from ingest.sources import Source

REJECTED = "rejected.jsonl"
"""The file of a version that names the bad images, one JSON object a line."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of a load into a version of a gallery.

    Attributes:
        dedupe: Leave out images whose content the gallery has under another key.
        prune: Remove images that the source no longer has.
        max_rejected: Maximum share of bad images, in percent of the source's images, 0 to 100.
        workers: Number of processes that load.
        publish_anyway: Publish the version even if the share of bad images is larger.

    Raises:
        InvalidInputError: The options exclude each other.
    """

    dedupe: bool = False
    prune: bool = False
    max_rejected: float = 10.0
    workers: int = 1
    publish_anyway: bool = True

    def __post_init__(self) -> None:
        if self.dedupe and self.workers > 1:
            raise InvalidInputError(
                "expected one of --dedupe and --workers, got both: no worker sees what another one stores"
            )


def check_exclusive_options(
    options: LoadOptions, *, limit: int | None = None, rebuild: bool = False, through_service: bool = False
) -> None:
    """Refuse options of `ingest load` that exclude each other.

    Args:
        options: The options as the user gave them.
        limit: Maximum number of images to read; None for all.
        rebuild: Whether to build a new version.
        through_service: Whether a running service stores the images.

    Raises:
        InvalidInputError: Two options exclude each other.
    """
    if options.prune and limit:
        raise InvalidInputError(
            "expected one of --prune and --limit, got both: all images beyond the limit would be removed"
        )
    if through_service and (options.dedupe or options.prune or rebuild or options.workers > 1):
        raise InvalidInputError("--service only adds: expected it without --dedupe, --prune, --rebuild and --workers")


def load_and_publish(
    build: Build, source: Source, encoder: Encoder, stages: Stages, options: LoadOptions = LoadOptions()
) -> tuple[GallerySpec, LoadSummary]:
    """Load a source into a version of a gallery, verify the version and make it live.

    Args:
        build: The version. It stays open.
        source: The images.
        encoder: Encodes them.
        stages: Displays the progress.
        options: Options of the load.

    Returns:
        The gallery as it is now, and the summary of the load.

    Raises:
        StoppedError: The user stopped the load. The same load resumes it.
        RejectedError: Too many images are bad, and `publish_anyway` is not set.
        SourceError: The source has no image, or changed while it was read.
        StoreDamagedError: The verification failed. The version does not go live.
    """
    with closing(Ledger(build.local_folder)) as ledger:
        if build.modified_by_service or ledger.counts()[Status.OK] != build.gallery.count():
            is_only_source = build.gallery.spec.sources == (source.name,)
            ledger.match(build.gallery.scroll(), source if is_only_source else None)
        try:
            summary = _load(build, source, encoder, ledger, stages, options)
        finally:
            _write_rejected(ledger, build.local_folder / REJECTED)
        if summary.stopped:
            raise StoppedError(f"stopped after {summary.seen:,} images: the same command resumes there")
        if not summary.seen:
            raise SourceError(f"{source.name}: expected images, got none")
        if not build.gallery.count():
            raise SourceError(
                f"{source.name}: expected images, got {summary.seen:,} files that are not; {_first_bad(ledger)}"
            )
        if not options.publish_anyway:
            check_rejected(summary, options.max_rejected, "the live version stays as it is")
        with stages.stage("indexing", None), summary.timed("index"):
            build.index()
        with stages.stage("verifying", None), summary.timed("verify"):
            problems = count_problems(build.gallery, ledger) + code_problems(build.gallery, encoder, summary.samples)
            if problems:
                raise StoreDamagedError(
                    f"gallery '{build.gallery.spec.name}' does not go live: {problems[0]}: load it with --rebuild"
                )
            # a rebuilt ledger has no sampled errors; then keep the calibration stored with the gallery
            calibration = calibrate(ledger.errors(), build.gallery) or build.gallery.spec.calibration
    return build.publish(calibration), summary


def _load(
    build: Build, source: Source, encoder: Encoder, ledger: Ledger, stages: Stages, options: LoadOptions
) -> LoadSummary:
    with stop_on_signal(stages.say) as stop:
        try:
            if options.workers > 1:
                return load_in_parallel(options.workers, source, encoder, build, ledger, stages, prune=options.prune)
            return load(
                source, encoder, build.gallery, ledger, stages, dedupe=options.dedupe, prune=options.prune, stop=stop
            )
        except StoreUnreachableError as error:
            if stop.is_set():
                raise StoppedError("stopped while the store could not be reached: the same command resumes") from error
            raise


def check_rejected(summary: LoadSummary, max_percent: float, outcome: str) -> None:
    """Refuse a load with too many bad images.

    Args:
        summary: Summary of the load.
        max_percent: Maximum share of bad images, in percent of the source's images, 0 to 100.
        outcome: State of the gallery after the load, for the message.

    Raises:
        RejectedError: The share of bad images is larger.
    """
    if summary.rejected * 100 > max_percent * summary.seen:
        raise RejectedError(
            f"{summary.rejected:,} of {summary.seen:,} images are bad, more than {max_percent:g} %: {outcome}: repair "
            "or remove them, or allow more with --max-rejected"
        )


def _write_rejected(ledger: Ledger, path: Path) -> None:
    path.unlink(missing_ok=True)
    if next(ledger.bad(), None) is None:
        return
    with replacing(path) as file:
        for source, row in ledger.bad():
            line = {"key": row.key, "reason": row.reason, "source": source}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _first_bad(ledger: Ledger) -> str:
    first = next(ledger.bad(), None)
    return f"{first[1].key}: {first[1].reason}" if first else ""
