"""Train on more images than memory holds: `python -m benchmarks.training` (or `make bench-train`).

Makes a .tar of pictures and trains on it for one epoch, in a process that may have less memory than their pixels take,
its own and the files that Linux keeps for it together. Needs root, for a memory cgroup, and 3 GB of disk.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import typer

from benchmarks.loading import generate
from benchmarks.memory import taken_mb
from benchmarks.served import cgroup, drop_caches

_SAMPLE_S = 0.2


def main(count: int = 1_200_000, memory_mb: int = 768, folder: Path | None = None) -> None:
    """Make, train, print."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch, cgroup(memory_mb) as enter:
        archive = Path(scratch, "generated.tar")
        generate(archive, count)
        drop_caches()
        print(f"{count:,} pictures of 28 × 28: {count * 28 * 28 / 2**20:,.0f} MB of pixels, {memory_mb} MB of memory")
        command = [str(Path(sys.executable).parent / "autoencoder"), "train", str(archive), "--out", f"{scratch}/out"]
        command += ["--arch", "seed", "--size", "28", "--channels", "1", "--epochs", "1"]
        begun = time.perf_counter()
        with subprocess.Popen(command, preexec_fn=enter) as training:
            own = _watched(training)
        read_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock / 2048
        print(f"trained for {time.perf_counter() - begun:.0f} s, exit code {training.returncode}")
        print(f"peak of its own memory {own:,.0f} MB; read from disk {read_mb:,.0f} MB")
    sys.exit(training.returncode != 0)


def _watched(training: "subprocess.Popen[bytes]") -> float:
    """Wait for its end, and return the most memory that was its own, in MB."""
    own = 0.0
    try:
        while training.poll() is None:
            own = max(own, taken_mb(training.pid, "RssAnon"))
            time.sleep(_SAMPLE_S)
    finally:
        training.kill()
    return own


if __name__ == "__main__":
    typer.run(main)
