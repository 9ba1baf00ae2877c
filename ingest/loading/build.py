"""Build a version of a gallery: load, index, verify and publish it."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from encoder_service.encoder import Encoder
from gallery import Build, GallerySpec
from gallery.deadline import waits_end_with
from gallery.errors import InvalidInputError, StoreDamagedError, StoreUnreachableError
from gallery.files import replacing
from gallery.plurals import counted
from ingest.errors import RejectedError, SourceError, StoppedError
from ingest.interrupt import stop_on_signal
from ingest.loading.batches import LoadSummary
from ingest.loading.calibration import calibrate
from ingest.loading.keys import with_ledger_keys
from ingest.loading.ledger import Ledger, Status
from ingest.loading.pipeline import LoadPass
from ingest.loading.rebuild import LiveVersion
from ingest.loading.staging import Staging
from ingest.loading.verify import code_problems, count_problems
from ingest.loading.workers import load_in_parallel
from ingest.progress import Stages
from ingest.sources import Source

REJECTED = "rejected.jsonl"
"""Name of a version's file that lists the bad images, with one JSON object per line."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of a load into a version of a gallery.

    Attributes:
        dedupe: Leave out images whose content the gallery has under another key.
        prune: Remove images that the source no longer has.
        prune_most: Allow a prune or a rebuild to remove more than half of the source's images.
        max_rejected: Maximum share of bad images, in percent of the source's images, 0 to 100. Above it, stored images
            are neither replaced nor removed.
        workers: Number of processes that load.
        publish_anyway: Publish the version even if the share of bad images is above the maximum.
        keep_added: In a rebuild, copy the live version's images that were added by services or loaded from
            other sources.

    Raises:
        InvalidInputError: The options exclude each other.
    """

    dedupe: bool = False
    prune: bool = False
    prune_most: bool = False
    max_rejected: float = 10.0
    workers: int = 1
    publish_anyway: bool = True
    keep_added: bool = False

    def __post_init__(self) -> None:
        if self.dedupe and self.workers > 1:
            raise InvalidInputError(
                "expected one of --dedupe and --workers, got both: no worker sees what another one stores"
            )


def check_exclusive_options(
    options: LoadOptions, *, limit: int | None = None, rebuild: bool = False, through_service: bool = False
) -> None:
    """Check that options of `ingest load` do not exclude each other.

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
    if options.keep_added and not rebuild:
        raise InvalidInputError("--keep-added: expected --rebuild with it; without --rebuild, added images stay anyway")
    if through_service and (options.dedupe or options.prune or rebuild or options.workers > 1):
        raise InvalidInputError("--service only adds: expected it without --dedupe, --prune, --rebuild and --workers")


def load_and_publish(
    build: Build,
    source: Source,
    encoder: Encoder,
    stages: Stages,
    options: LoadOptions = LoadOptions(),
    live: LiveVersion | None = None,
) -> tuple[GallerySpec, LoadSummary]:
    """Load a source into a version of a gallery, verify the version and make it live.

    Args:
        build: The version to load into. The caller closes it.
        source: The images.
        encoder: Encodes them.
        stages: Displays the progress.
        options: Options of the load.
        live: The version that a rebuild replaces; None if the load is not a rebuild, or no version is live.

    Returns:
        The spec of the published version, and the summary of the load.

    Raises:
        StoppedError: The user stopped the load. Loading the same source again resumes it.
        RejectedError: Too many images are bad, and `publish_anyway` is False. Or the rebuilt version lacks more than
            half of the source's images in the live version, and `prune_most` is False.
        SourceError: The source has no image, or changed while it was read.
        StoreDamagedError: The verification failed. The version does not go live.
        StoreFullError: The disk has no space for the new images.
    """
    with closing(Ledger(build.local_folder)) as ledger:
        if build.modified_by_service or ledger.counts()[Status.OK] != build.gallery.count():
            ledger.match(build.gallery.scroll())
        source = with_ledger_keys(source, live.ledger if live else ledger, stages.say)
        if live:
            ledger.inherit_sources(live.ledger)
        if source.count and not options.dedupe:
            _, stored_count = ledger.count_prunable(source)
            build.check_space(max(0, source.count - stored_count))
        try:
            summary = _load(build, source, encoder, ledger, stages, options, live.ledger if live else None)
        finally:
            _write_rejected(ledger, build.local_folder / REJECTED)
        if summary.stopped:
            raise StoppedError(f"stopped after {counted(summary.seen, 'image')}: the same command resumes there")
        if not summary.seen:
            raise SourceError(f"{source.name}: expected images, got none")
        if not build.gallery.count():
            raise SourceError(
                f"{source.name}: expected images, got {counted(summary.seen, 'other file')}; {_first_bad(ledger)}"
            )
        if not options.publish_anyway:
            check_rejected(summary, options.max_rejected, "the live version stays as it is")
        if live:
            live.refresh()
            live.check_lost(ledger, source, most=options.prune_most)
            if options.keep_added:
                summary.kept = live.copy_left_out(build, ledger, source)
            summary.left_out = live.count_left_out(ledger, source, stages.say)
        with stages.stage("indexing", None), summary.timed("index"):
            build.index()
        with stages.stage("verifying", None), summary.timed("verify"):
            problems = count_problems(build.gallery, ledger) + code_problems(
                build.gallery, encoder, _stored_inputs(ledger, summary)
            )
            if problems:
                raise StoreDamagedError(
                    f"gallery '{build.gallery.spec.name}' does not go live: {problems[0]}: load it with --rebuild"
                )
            calibration = calibrate(ledger.errors(), build.gallery, encoder) or build.gallery.spec.calibration
    spec = build.publish(calibration)
    if live:
        # count again, because a service may have added images to the live version until it was replaced
        live.refresh()
        with closing(Ledger(build.local_folder)) as ledger:
            summary.left_out = live.count_left_out(ledger, source, stages.say, said=summary.left_out)
    return spec, summary


def _load(
    build: Build,
    source: Source,
    encoder: Encoder,
    ledger: Ledger,
    stages: Stages,
    options: LoadOptions,
    live: Ledger | None,
) -> LoadSummary:
    """Store the new images. Then replace the changed ones and prune, unless too many images are bad."""
    with (
        stop_on_signal(stages.say) as stop,
        waits_end_with(stop),
        Staging(build.local_folder) as staging,
        ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="prepare") as pool,
    ):
        first = LoadPass(
            source, encoder, build.gallery, ledger, stages, pool, options.dedupe, stop, staging, live, LoadSummary()
        )
        try:
            return _run(first, build, options, is_rebuild=live is not None)
        except StoreUnreachableError as error:
            if stop.is_set():
                raise StoppedError("stopped while the store could not be reached: the same command resumes") from error
            raise


def _run(first: LoadPass, build: Build, options: LoadOptions, *, is_rebuild: bool) -> LoadSummary:
    if options.workers > 1:
        first = replace(first, summary=load_in_parallel(options.workers, first, build, mark_seen=options.prune))
    else:
        first.run(mark_seen=options.prune)
    summary = first.summary
    if summary.stopped or not summary.seen:
        return summary
    if not _has_too_many_bad(summary, options.max_rejected):
        first.replace_staged()
        if options.prune:
            _prune(build, first.source, first.ledger, options, summary, is_rebuild=is_rebuild)
    if first.ledger.has_orphans():
        # the originals of some duplicates have changed or been removed: a second pass stores a duplicate in place of
        # each such original
        summary.add_second_pass(replace(first, summary=LoadSummary()).run())
    return summary


def _prune(
    build: Build, source: Source, ledger: Ledger, options: LoadOptions, summary: LoadSummary, *, is_rebuild: bool
) -> None:
    count, total = ledger.count_prunable(source)
    if count * 2 > total and not (options.prune_most or is_rebuild):
        summary.unpruned = count
    else:
        summary.pruned += ledger.prune(source, build.gallery.delete)


def _stored_inputs(ledger: Ledger, summary: LoadSummary) -> dict[str, NDArray[np.float32]]:
    """Return the sampled inputs of the images that have been stored, by key."""
    rows = ledger.look_up(list(summary.samples))
    return {
        key: values
        for key, (sha256, values) in summary.samples.items()
        if key in rows and rows[key].status is Status.OK and rows[key].sha256 == sha256
    }


def check_rejected(summary: LoadSummary, max_percent: float, outcome: str) -> None:
    """Raise an error if too many images of a load are bad.

    Args:
        summary: Summary of the load.
        max_percent: Maximum share of bad images, in percent of the source's images, 0 to 100.
        outcome: State of the gallery after the load, for the error.

    Raises:
        RejectedError: The share of bad images is larger.
    """
    if _has_too_many_bad(summary, max_percent):
        raise RejectedError(
            f"expected at most {max_percent:g} % bad images, got {summary.rejected:,} of {summary.seen:,}: {outcome}: "
            "repair or remove the bad ones, or allow more with --max-rejected"
        )


def check_pruned(summary: LoadSummary) -> None:
    """Raise an error if a load refused to prune, because it would have removed most of the source's images.

    Raises:
        RejectedError: The load refused to prune.
    """
    if summary.unpruned:
        raise RejectedError(
            f"--prune would remove {counted(summary.unpruned, 'image')}, more than half of the source's, and has "
            "removed none: if the source is complete, add --yes"
        )


def _has_too_many_bad(summary: LoadSummary, max_percent: float) -> bool:
    return summary.rejected * 100 > max_percent * summary.seen


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
