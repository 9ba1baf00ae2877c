"""A service as a process of its own, over a new store of MNIST, and what it takes of the machine."""

import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ingest.sources import open_source
from tests.digits import png

BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Running:
    """A service that runs.

    Attributes:
        address: HOST:PORT.
        process: Its process.
        store: URL of its store.
    """

    address: str
    process: subprocess.Popen[str]
    store: str

    def memory_mb(self, field: str = "VmRSS") -> float:
        """Return its memory, as /proc names the kind: VmRSS for all resident, RssAnon without files."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{field}:")[2].split()[0]) / 1024

    def file_count(self) -> int:
        """Count its open file descriptors."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208 (names alone are wanted)


@contextmanager
def store(count: int) -> Iterator[str]:
    """Yield the URL of a store with the first digits of MNIST, which goes away in the end."""
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
    try:
        yield Running(address, process, url)
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
    """Return digits that no gallery of the train split has."""
    return [item.image() for item in open_source("mnist", "test", limit=count)]


def pngs(count: int) -> list[bytes]:
    """Return the same as files."""
    return [png(digit) for digit in digits(count)]


def machine() -> str:
    """Return what this runs on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def judge(what: str, is_so: bool) -> bool:
    """Print whether something is as it should be, and return it."""
    print(f"{'ok' if is_so else 'NOT REACHED':<12}{what}", flush=True)
    return is_so
