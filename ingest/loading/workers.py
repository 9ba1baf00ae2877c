"""Load in several processes, each with a share of the source's images. The store must allow several writers."""

import multiprocessing
import queue
import signal
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from encoder_service.encoder import Encoder
from encoder_service.images import silence_pillow
from gallery import Build, Gallery
from gallery.errors import InvalidInputError, UnavailableError
from ingest.interrupt import stop_on_signal
from ingest.loading.batches import BATCH_COUNT, LoadSummary
from ingest.loading.ledger import Ledger
from ingest.loading.pipeline import LoadPass, load
from ingest.loading.staging import Staging
from ingest.progress import Advance, Stages
from ingest.sources import Item, Source
from ingest.sources.base import DerivedSource

# Seconds between two checks for killed workers, which can't send a message.
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Share(DerivedSource):
    """The share of a source's images that one of several workers loads, chosen by a hash of the key."""

    index: int
    workers: int

    @property
    def count(self) -> int | None:
        """Number of images in the share, estimated."""
        return self.source.count and self.source.count // self.workers

    def __iter__(self) -> Iterator[Item]:
        """Read the source, and skip the images of the other workers."""
        for item in self.source:
            if zlib.crc32(item.key.encode("utf-8", "surrogatepass")) % self.workers == self.index:
                yield item


@dataclass(frozen=True, slots=True)
class _Job:
    """The picklable arguments of a worker process.

    Attributes:
        share: The images to load.
        encoder: Folder of the encoder.
        open_gallery: Opens the gallery.
        folder: Folder of the ledger and the staged images.
        live: Folder of the ledger of the version that a rebuild replaces; None if there is no such version.
    """

    share: Share
    encoder: Path
    open_gallery: Callable[[], Gallery]
    folder: Path
    live: Path | None


def load_in_parallel(workers: int, load_pass: LoadPass, build: Build, *, mark_seen: bool = False) -> LoadSummary:
    """Run a `LoadPass` in several processes.

    Args:
        workers: Number of processes. Each reads all images and encodes its share.
        load_pass: The pass to run. Its own summary does not change.
        build: The version that stores the codes.
        mark_seen: Pass all keys of the source to `Ledger.see`, so that `Ledger.prune` can remove all other images.

    Returns:
        The sum of the processes' summaries.

    Raises:
        InvalidInputError: The store accepts only one writer.
        LookalikeError: A worker failed, as in `load`.
    """
    if build.reopen is None:
        raise InvalidInputError("--workers: expected a server, which accepts several writers: --store http://HOST:6333")
    source, live = load_pass.source, load_pass.live
    context = multiprocessing.get_context("spawn")
    # a worker sends the number of images of each batch that it has done, and finally its summary or an error
    messages: Any = context.Queue()
    processes = []
    for index in range(workers):
        job = _Job(
            Share(source, index, workers),
            load_pass.encoder.folder,
            build.reopen,
            build.local_folder,
            live.folder if live else None,
        )
        processes.append(context.Process(target=_work, args=(job, messages), name=f"worker {index}"))
    # Ctrl-C in a terminal reaches all processes. The workers must not get it: `_collect` stops them with SIGTERM.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        for process in processes:
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    try:
        summary = _collect(processes, messages, load_pass)
    finally:
        for process in processes:
            process.terminate()
            process.join()
    if mark_seen and summary.seen and not summary.stopped:
        _mark_seen(source, load_pass.ledger)
    return summary


def _collect(processes: Sequence[BaseProcess], messages: Any, load_pass: LoadPass) -> LoadSummary:
    """Display the workers' progress and add up their summaries until all have ended. Stop them when the pass stops."""
    summary, running, source = LoadSummary(), len(processes), load_pass.source
    is_stopping = False
    with load_pass.stages.stage("loading", source.count) as advance:
        while running:
            if load_pass.stop.is_set() and not is_stopping:
                is_stopping = True
                for process in processes:
                    process.terminate()  # SIGTERM: it finishes the batches in flight
            try:
                message = messages.get(timeout=_POLL_S)
            except queue.Empty:
                if is_stopping:  # a worker that has only just begun ends without a summary
                    if not any(process.is_alive() for process in processes):
                        summary.stopped = True
                        break
                    continue
                killed = [process.name for process in processes if process.exitcode not in (None, 0)]
                if killed:
                    raise UnavailableError(f"{killed[0]} was killed: the same command resumes the load") from None
                continue
            if isinstance(message, Exception):
                raise message
            if isinstance(message, LoadSummary):
                running -= 1
                summary.add_share(message)
            else:
                advance(message, source.count)
    return summary


def _mark_seen(source: Source, ledger: Ledger) -> None:
    """Pass all keys of the source to `Ledger.see`."""
    keys: list[str] = []
    for item in source:
        keys.append(item.key)
        if len(keys) == BATCH_COUNT:
            ledger.see(keys)
            keys = []
    ledger.see(keys)


def _work(job: _Job, messages: Any) -> None:
    """Load one share in a worker process, and send its progress and finally its summary or its error."""
    silence_pillow()
    try:
        with ExitStack() as stack:
            gallery = stack.enter_context(closing(job.open_gallery()))
            ledger = stack.enter_context(closing(Ledger(job.folder)))
            staging = stack.enter_context(closing(Staging(job.folder)))
            live = stack.enter_context(closing(Ledger(job.live))) if job.live else None
            stop = stack.enter_context(stop_on_signal(lambda line: None))
            # SIGTERM may come twice: to the whole process group, and from `_collect`
            signal.signal(signal.SIGTERM, lambda *_: stop.set())
            encoder, stages = Encoder(job.encoder), _SentStages(messages)
            messages.put(load(job.share, encoder, gallery, ledger, stages, staging=staging, live=live, stop=stop))
    except Exception as error:
        messages.put(error)


class _SentStages(Stages):
    """Stages that send their progress to the process that displays it."""

    def __init__(self, messages: Any) -> None:
        super().__init__()
        self._messages = messages

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str = "image") -> Iterator[Advance]:
        """Yield a function that tells the main process how many more images are done."""

        def advance(count: int, total: int | None = None) -> None:
            self._messages.put(count)

        yield advance
