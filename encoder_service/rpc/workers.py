"""Worker processes that answer calls on one port, and their parent, which starts, watches and ends them.

Each worker runs a `Server` of its own and binds the port with SO_REUSEPORT, so the system spreads the connections over
the workers. The parent answers no calls. It serves the metrics of all workers.
"""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from types import FrameType, TracebackType
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from encoder_service import images
from encoder_service.encoder import load_encoder
from encoder_service.errors import ServiceError
from encoder_service.rpc.addresses import joined, reserved
from encoder_service.rpc.config import Config
from encoder_service.rpc.logs import begin_logging
from encoder_service.rpc.metrics import serve_metrics
from encoder_service.rpc.signals import EndingSignals
from gallery import open_store
from gallery.errors import LookalikeError

_log = logging.getLogger(__name__)

# Seconds between the end of a worker and its restart: at first, and at most. Each early end doubles the pause, so that
# a worker that can't start, for example because the store is down, does not keep a processor busy.
_MIN_PAUSE_S = 0.5
_MAX_PAUSE_S = 10.0
# Seconds that a worker has to run for its end not to count as early.
_STABLE_S = 60.0
# Maximum seconds to wait for a worker's metrics. It is half of Prometheus's default timeout.
_METRICS_S = 5.0
# Seconds between checks, at shutdown, whether the workers have ended.
_POLL_S = 0.02

# `fork` would copy the threads' locks in whatever state they are
_processes = multiprocessing.get_context("spawn")


class Workers:
    """The worker processes of one service.

        with Workers(config) as workers:
            print(workers.address)
            workers.wait_for_signal()

    Attributes:
        address: The address on which the workers listen, HOST:PORT.
        http_port: The port on which the workers listen for HTTP. It is set only if the settings ask for HTTP.
        metrics_port: The port of the metrics of all workers. It is set only if the settings ask for metrics.
    """

    def __init__(self, config: Config) -> None:
        """Prepare the workers. No process is started yet.

        Args:
            config: The settings, whose store is a Qdrant server.
        """
        self._config = config
        self._workers: list[_Worker] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start the workers, and wait until all of them are ready.

        Raises:
            ServiceError: A port can't be bound, or a worker has crashed.
            LookalikeError: A worker can't start, as in `Server`.
        """
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the workers that still run."""
        self._stack.close()

    def wait_for_signal(self, signals: EndingSignals | None = None) -> None:
        """Wait for SIGTERM, SIGINT or SIGHUP, and restart workers that end before. Then let the workers drain and end.

        A second signal kills the workers.

        Args:
            signals: Handler of the signals; None to install one now.
        """
        signals = signals or EndingSignals()
        signals.wait(self._restart_ended)
        self._stop(lambda: signals.count > 1)

    def _start(self, stack: ExitStack) -> None:
        config = self._config
        port = stack.enter_context(reserved(config.host, config.port, "--port"))
        self.address = joined(config.host, port)
        if config.http_port is not None:
            self.http_port = stack.enter_context(reserved(config.host, config.http_port, "--http-port"))
            config = replace(config, http_port=self.http_port)
        config = replace(config, port=port, metrics_port=None)
        stack.callback(self._stop)
        for number in range(1, config.workers + 1):
            self._workers.append(_Worker(number, config))
        for worker in self._workers:
            worker.wait_until_ready()
        if self._config.metrics_port is not None:
            registry = CollectorRegistry()
            registry.register(_WorkerMetrics(self._workers))
            self.metrics_port, stop = serve_metrics(registry, config.metrics_host, self._config.metrics_port)
            stack.callback(stop)

    def _restart_ended(self) -> None:
        for worker in self._workers:
            worker.restart_if_ended()

    def _stop(self, is_urgent: Callable[[], bool] = lambda: False) -> None:
        processes = [worker.process for worker in self._workers]
        for process in processes:
            process.terminate()
        while any(process.is_alive() for process in processes):
            if is_urgent():
                for process in processes:
                    process.kill()
            time.sleep(_POLL_S)


class _Worker:
    """One worker process, and those that replace it.

    Attributes:
        number: Number of the worker, from 1.
        process: The process.
    """

    def __init__(self, number: int, config: Config) -> None:
        """Start the process."""
        self.number = number
        self._config = config
        self._pause_s = _MIN_PAUSE_S
        self._error: LookalikeError | None = None
        self._restart_at: float | None = None
        self._start()

    def _start(self) -> None:
        self._is_ready = False
        self._error = None
        self._restart_at = None
        self._began = time.monotonic()
        self._pipe, end = _processes.Pipe()
        process = _processes.Process(target=_serve, args=(self._config, end), name=f"worker-{self.number}")
        # A terminal sends Ctrl-C to the workers too. Python would print a traceback for it before `_serve` is called.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
            end.close()
        self.process = process

    def wait_until_ready(self) -> None:
        """Wait until the process answers calls.

        Raises:
            ServiceError: The process has crashed.
            LookalikeError: The process can't start, as in `Server`.
        """
        try:
            error: LookalikeError | None = self._pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            error = ServiceError(f"{self.process.name} ended with exit code {code} before it was ready")
        if error:
            raise error
        self._is_ready = True

    def restart_if_ended(self) -> None:
        """Start another process after a pause if the process has ended. Log both."""
        is_alive = self.process.is_alive()
        if not (self._is_ready or self._error) and self._pipe.poll():
            try:
                self.wait_until_ready()
                _log.info("%s is ready again", self.process.name)
            except LookalikeError as error:
                self._error = error
        if is_alive:
            return
        now = time.monotonic()
        if self._restart_at is None:
            if now - self._began > _STABLE_S:
                self._pause_s = _MIN_PAUSE_S
            self._restart_at = now + self._pause_s
            reason = self._error or f"it ended with exit code {self.process.exitcode}"
            _log.error("%s is restarted in %g s: %s", self.process.name, self._pause_s, reason)
            self._pause_s = min(self._pause_s * 2, _MAX_PAUSE_S)
        elif now >= self._restart_at:
            try:
                self._start()
            except OSError as error:  # for example, the machine is short of memory
                self._error = ServiceError(f"can't start a process: {error.strerror}")

    def metrics(self) -> list[Metric]:
        """Return the metrics of the process; empty if it is not ready or does not respond."""
        pipe = self._pipe
        if not self._is_ready:
            return []
        try:
            while pipe.poll():  # an answer that came too late for an earlier call
                pipe.recv()
            pipe.send("metrics")
            return list(pipe.recv()) if pipe.poll(_METRICS_S) else []
        except (EOFError, OSError):  # the process has just ended
            return []


class _WorkerMetrics(Collector):
    """The metrics of all workers, with the label `worker`."""

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._workers = workers
        self._lock = threading.Lock()

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        with self._lock, ThreadPoolExecutor(len(self._workers)) as pool:
            for worker, metrics in zip(self._workers, pool.map(_Worker.metrics, self._workers), strict=True):
                for metric in metrics:
                    samples, metric.samples = metric.samples, []
                    families.setdefault(metric.name, metric).samples += [
                        sample._replace(labels={**sample.labels, "worker": str(worker.number)}) for sample in samples
                    ]
        return families.values()


class _WorkerSignals(EndingSignals):
    """Counts only the first signal.

    The parent sends SIGTERM, but a terminal sends Ctrl-C to all processes too, and so does systemd with SIGTERM.
    """

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.count:
            super()._receive(number, frame)


def _serve(config: Config, pipe: "Connection") -> None:
    """Serve in a worker process until a signal arrives or the parent ends.

    Args:
        config: The settings, with the ports to share.
        pipe: Receives None when the service is ready, or the error because of which it can't start; after that, the
            metrics whenever the parent asks for them.
    """
    begin_logging(config.log_format, config.log_level, with_process=True)
    images.silence_pillow()
    with ExitStack() as stack:
        signals = stack.enter_context(_WorkerSignals())
        from encoder_service.rpc.server import Server  # not in the parent, which needs no such imports

        try:
            server = stack.enter_context(Server(open_store(config.store), load_encoder(config.encoder), config))
        except LookalikeError as error:
            pipe.send(error)
            return
        threading.Thread(target=_answer, args=(pipe, server.registry), name="parent", daemon=True).start()
        server.wait_for_signal(signals)


def _answer(pipe: "Connection", registry: CollectorRegistry) -> None:
    """Report to the parent that the service is ready, and send the metrics whenever it asks. End if the parent ends."""
    with suppress(EOFError, OSError):
        pipe.send(None)
        while True:
            pipe.recv()
            pipe.send(list(registry.collect()))
    _log.error("the parent process has ended, so this worker ends too")
    os.kill(os.getpid(), signal.SIGTERM)
