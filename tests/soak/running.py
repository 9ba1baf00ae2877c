"""A service in its own process, over a new store of MNIST, with its memory and open files."""

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from benchmarks.memory import process_memory_mb
from ingest.sources import open_source
from tests.digits import png

BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Running:
    """A running service.

    Attributes:
        address: HOST:PORT.
        process: The process of the service.
        store: URL of the store.
        page: URL of its search page; empty if it has none.
    """

    address: str
    process: subprocess.Popen[str]
    store: str
    page: str = ""

    def memory_mb(self, field: str = "VmRSS") -> float:
        """Return the memory of the service in MB; see `process_memory_mb`."""
        return process_memory_mb(self.process.pid, field)

    def file_count(self) -> int:
        """Count the open file descriptors of the service."""
        return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())


@contextmanager
def store(count: int) -> Iterator[str]:
    """Yield the URL of a temporary store with the first `count` digits of MNIST."""
    with tempfile.TemporaryDirectory(prefix="lookalike-soak-") as folder:
        url = f"edge:{folder}/store"
        load("mnist", url, "--limit", str(count))
        yield url


@contextmanager
def serving(url: str, *flags: str) -> Iterator[Running]:
    """Run a service over a store until the block ends."""
    command = [str(BIN / "encoder-service"), "serve", "--port", "0", "--store", url, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    page = process.stdout.readline().split()[-1] if "--http-port" in flags else ""
    try:
        yield Running(address, process, url, page)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(30)
        process.stdout.close()


def load(source: str, url: str, *flags: str) -> None:
    """Run `ingest load`."""
    command = [str(BIN / "ingest"), "load", source, "--store", url, *flags]
    subprocess.run(command, check=True, capture_output=True)


def digits(count: int) -> list[Image.Image]:
    """Return digits of the test split, which a gallery of the train split lacks."""
    return [item.image() for item in open_source("mnist", "test", limit=count)]


def pngs(count: int) -> list[bytes]:
    """Return `digits` as PNG files."""
    return [png(digit) for digit in digits(count)]


def judge(finding: str, passed: bool) -> bool:
    """Print a finding with its verdict, and return the verdict."""
    print(f"{'ok' if passed else 'FAILED':<8}{finding}", flush=True)
    return passed
