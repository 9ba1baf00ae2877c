"""Compare the codes that different processors make: `python -m benchmarks.processors`.

Encodes the same images on this processor and on processors with fewer instructions, which `qemu-x86_64` of Debian's
package `qemu-user` emulates. Prints the largest Euclidean distance between the codes of an image. Takes a minute.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder_service.encoder import load_encoder
from ingest.sources import open_source

_ENCODERS = {"mnist": "mnist", "fashion": "fashion-mnist"}
# Names of processors for QEMU: one with AVX2, and one with SSE4.
_PROCESSORS = ("max", "Nehalem")
_COUNT = 512


def main() -> None:
    """Print a line for each encoder and processor."""
    with TemporaryDirectory() as folder:
        own = _encoded([], Path(folder) / "own.npz")
        for processor in _PROCESSORS:
            codes = _encoded(["qemu-x86_64", "-cpu", processor], Path(folder) / f"{processor}.npz")
            for name, expected in own.items():
                distance = np.linalg.norm(codes[name] - expected, axis=1).max()
                print(f"{name:<10}{processor:<10}{_COUNT} images, largest distance {distance:.1e}")


def _encoded(emulator: list[str], file: Path) -> dict[str, NDArray[np.float32]]:
    command = [*emulator, str(Path(sys.executable).resolve()), "-m", "benchmarks.processors", str(file)]
    paths = ":".join(path for path in [str(Path(__file__).parents[1]), *sys.path] if path)
    subprocess.run(command, check=True, env={"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"})
    return dict(np.load(file))


def _encode(file: Path) -> None:
    codes: dict[str, Any] = {}
    for name, dataset in _ENCODERS.items():
        images = [item.image() for item in open_source(dataset, "test", limit=_COUNT)]
        codes[name] = load_encoder(name).encode_images(images)
    np.savez(file, **codes)


if __name__ == "__main__":
    _encode(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
