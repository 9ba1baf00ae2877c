"""A load in several processes, each with its own part of the keys, for a store that several may write to."""

import multiprocessing
import queue
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoder_service.encoder import Encoder
from gallery import Build, Gallery
from gallery.errors import InvalidInputError, UnavailableError
from ingest.interrupt import stop_on_signal
from ingest.loading.ledger import Ledger
from ingest.loading.pipeline import LoadSummary, load
from ingest.progress import Advance, Stages
from ingest.sources import Item, Source

_SEEN_AT_ONCE = 1024
_TICK_S = 0.2


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a source whose keys fall to one of several workers."""

    source: Source
    index: int
    workers: int

    @property
    def name(self) -> str:
        """The whole source's name."""
        return self.source.name

    @property
    def count(self) -> int | None:
        """About so many images."""
        return self.source.count and self.source.count // self.workers

    def __iter__(self) -> Iterator[Item]:
        """Read the source, and pass over what falls to others."""
        for item in self.source:
            if zlib.crc32(item.key.encode("utf-8", "surrogatepass")) % self.workers == self.index:
                yield item


@dataclass(frozen=True, slots=True)
class _Job:
    """What a worker needs, all of it able to go to another process."""

    share: Share
    place: str
    encoder: Path
    open_gallery: Callable[[], Gallery]
    ledger: Path


def load_in_parallel(
    workers: int,
    source: Source,
    place: str,
    encoder: Encoder,
    build: Build,
    ledger: Ledger,
    stages: Stages,
    prune: bool,
) -> LoadSummary:
    """Do what `load` does, in several processes.

    Args:
        workers: How many.
        source: Where the images come from; each worker reads all of it and encodes its share.
        place: What `open_source` finds the source by from anywhere.
        encoder: Makes the codes.
        build: Takes them.
        ledger: The build's own, in which the source has begun.
        stages: Shows how far it is.
        prune: Remove the images that the source no longer has.

    Raises:
        InvalidInputError: The store has room for one writer only.
        LookalikeError: A part failed, as in `load`.
    """
    if build.reopen is None:
        raise InvalidInputError("--workers: expected a server, where several may write: --store http://HOST:6333")
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    processes = []
    for index in range(workers):
        job = _Job(Share(source, index, workers), place, encoder.folder, build.reopen, build.local_folder)
        processes.append(context.Process(target=_work, args=(job, told), name=f"worker {index}"))
    for process in processes:
        process.start()
    try:
        done = _gathered(processes, told, source, stages)
    finally:
        for process in processes:
            process.terminate()  # nothing happens to one that has ended; the others finish the batch in hand
            process.join()
    if prune and not done.stopped:
        _prune(source, build.gallery, ledger, done)
    return done


def _gathered(processes: list[Any], told: Any, source: Source, stages: Stages) -> LoadSummary:
    """Add up what the workers tell until all have ended."""
    done, running = LoadSummary(), len(processes)
    with stages.stage("loading", source.count) as advance:
        while running:
            try:
                news = told.get(timeout=_TICK_S)
            except queue.Empty:
                killed = [process.name for process in processes if process.exitcode not in (None, 0)]
                if killed:
                    raise UnavailableError(f"{killed[0]} of the load was killed: run the same again") from None
                continue
            if isinstance(news, Exception):
                raise news
            if isinstance(news, LoadSummary):
                running -= 1
                done.add(news)
            else:
                advance(news, source.count)
    return done


def _prune(source: Source, gallery: Gallery, ledger: Ledger, done: LoadSummary) -> None:
    """Remove from gallery and ledger what the source no longer has, by a pass of its own through the keys."""
    keys: list[str] = []
    for item in source:
        keys.append(item.key)
        if len(keys) == _SEEN_AT_ONCE:
            ledger.see(keys)
            keys = []
    ledger.see(keys)
    done.pruned += ledger.prune(gallery.delete)


def _work(job: _Job, told: Any) -> None:
    """Load one share, and tell of progress, and of the end or the error."""
    try:
        with closing(job.open_gallery()) as gallery, closing(Ledger(job.ledger)) as ledger:
            ledger.begin(job.share.name, job.place)
            with stop_on_signal(lambda line: None) as stop:
                told.put(load(job.share, Encoder(job.encoder), gallery, ledger, _Told(told), stop=stop))
    except Exception as error:
        told.put(error)


class _Told(Stages):
    """Progress that is told to the process which shows it."""

    def __init__(self, told: Any) -> None:
        super().__init__()
        self._told = told

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str = "images") -> Iterator[Advance]:
        """Tell how many more are done."""

        def advance(count: int, total: int | None = None) -> None:
            self._told.put(count)

        yield advance
