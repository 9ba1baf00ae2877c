"""A whole version of a gallery: load, index, verify, publish."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from encoder_service.encoder import Encoder
from gallery import Build, GallerySpec
from gallery.errors import StoreDamagedError
from gallery.files import replacing
from ingest.errors import RejectedError, SourceError, StoppedError
from ingest.interrupt import stop_on_signal
from ingest.loading.ledger import Ledger, Status
from ingest.loading.pipeline import LoadSummary, calibrate, load
from ingest.loading.verify import code_problems, count_problems
from ingest.loading.workers import load_in_parallel
from ingest.progress import Stages
from ingest.sources import Source

REJECTED = "rejected.jsonl"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """On what terms a version is made.

    Attributes:
        dedupe: Leave out images whose content is in the gallery under another key.
        prune: Remove images that the source no longer has.
        max_rejected: The most images that may be bad, in percent of the source's.
        workers: In how many processes to load.
        publish_anyway: Publish even if more are bad, and complain afterwards.
    """

    dedupe: bool = False
    prune: bool = False
    max_rejected: float = 10.0
    workers: int = 1
    publish_anyway: bool = True


def load_and_publish(
    build: Build, source: Source, place: str, encoder: Encoder, stages: Stages, terms: LoadOptions = LoadOptions()
) -> tuple[GallerySpec, LoadSummary]:
    """Load a source into a version of a gallery, and make the version live when it has been verified.

    Args:
        build: The version; it stays open.
        source: Where the images come from.
        place: What `open_source` finds the source by from anywhere.
        encoder: Makes the codes.
        stages: Shows how far it is.
        terms: What may be left out.

    Returns:
        The gallery as it is now, and what the load did.

    Raises:
        StoppedError: The user stopped it; the same load goes on.
        RejectedError: Too many images are bad, and `publish_anyway` is not set.
        SourceError: The source has no image at all, or changed while it was read.
        StoreDamagedError: The version is not what it should be; it does not go live.
    """
    with closing(Ledger(build.local_folder)) as ledger:
        if build.modified_by_service or ledger.counts()[Status.OK] != build.gallery.count():
            if build.gallery.spec.sources == (source.name,):
                ledger.begin(source.name, place)
            ledger.match(build.gallery.scroll())
        ledger.begin(source.name, place)
        try:
            done = _loaded(build, source, place, encoder, ledger, stages, terms)
        finally:
            _write_rejected(ledger, build.local_folder / REJECTED)
        if done.stopped:
            raise StoppedError(f"stopped after {done.seen:,} images: the same command goes on from there")
        if not build.gallery.count():
            raise SourceError(f"{source.name}: none of its {done.seen:,} files is an image; {_first(ledger)}")
        if not terms.publish_anyway:
            check_rejected(done, terms.max_rejected, "the live version stays as it is")
        with stages.stage("indexing", None), done.timed("index"):
            build.index()
        with stages.stage("verifying", None), done.timed("verify"):
            problems = count_problems(build.gallery, ledger) + code_problems(build.gallery, encoder, done.samples)
            if problems:
                raise StoreDamagedError(
                    f"gallery '{build.gallery.spec.name}' does not go live: {problems[0]}: load it with --rebuild"
                )
            # a ledger that was adopted has no errors, but the gallery has what was learned of it before
            calibration = calibrate(ledger.errors(), build.gallery) or build.gallery.spec.calibration
    return build.publish(calibration), done


def _loaded(
    build: Build, source: Source, place: str, encoder: Encoder, ledger: Ledger, stages: Stages, terms: LoadOptions
) -> LoadSummary:
    with stop_on_signal(stages.say) as stop:
        if terms.workers > 1:
            return load_in_parallel(terms.workers, source, place, encoder, build, ledger, stages, terms.prune)
        return load(source, encoder, build.gallery, ledger, stages, dedupe=terms.dedupe, prune=terms.prune, stop=stop)


def check_rejected(done: LoadSummary, max_percent: float, outcome: str) -> None:
    """Refuse a load of which too many images are bad.

    Raises:
        RejectedError: More than `max_percent` of them are.
    """
    if done.rejected * 100 > max_percent * done.seen:
        raise RejectedError(
            f"{done.rejected:,} of {done.seen:,} images are bad, more than {max_percent:g} %: {outcome}: mend or "
            "remove those, or allow more with --max-rejected"
        )


def _write_rejected(ledger: Ledger, path: Path) -> None:
    path.unlink(missing_ok=True)
    if next(ledger.bad(), None) is None:
        return
    with replacing(path) as file:
        for source, row in ledger.bad():
            line = {"key": row.key, "reason": row.reason, "source": source}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _first(ledger: Ledger) -> str:
    found = next(ledger.bad(), None)
    return f"{found[1].key}: {found[1].reason}" if found else ""
