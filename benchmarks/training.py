"""Train on more images than fit into memory: `python -m benchmarks.training` (or `make bench-train`).

This generates a .tar of images and trains on it for one epoch. The memory of the training process, including its page
cache, is limited to less than the size of the pixels. It needs 3 GB of disk, and root for a memory cgroup.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import typer

from benchmarks.loading import generate
from benchmarks.memory import process_memory_mb
from benchmarks.served import cgroup, drop_caches

# Seconds between two samples of memory.
_SAMPLE_S = 0.2


def main(count: int = 1_200_000, memory_mb: int = 768, folder: Path | None = None) -> None:
    """Generate the images, train on them, and print time and memory."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch, cgroup(memory_mb) as enter:
        archive = Path(scratch, "generated.tar")
        generate(archive, count)
        drop_caches()
        print(f"{count:,} images of 28 × 28: {count * 28 * 28 / 2**20:,.0f} MB of pixels, {memory_mb} MB of memory")
        command = [str(Path(sys.executable).parent / "autoencoder"), "train", str(archive), "--out", f"{scratch}/out"]
        command += ["--arch", "seed", "--size", "28", "--channels", "1", "--epochs", "1"]
        begun = time.perf_counter()
        with subprocess.Popen(command, preexec_fn=enter) as training:
            peak_mb = _peak_mb(training)
        read_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock / 2048
        print(f"trained for {time.perf_counter() - begun:.0f} s, exit code {training.returncode}")
        print(f"peak anonymous memory {peak_mb:,.0f} MB; read from disk {read_mb:,.0f} MB")
    sys.exit(training.returncode != 0)


def _peak_mb(training: "subprocess.Popen[bytes]") -> float:
    """Wait for the process to end, and return the peak of its anonymous memory in MB."""
    peak_mb = 0.0
    try:
        while training.poll() is None:
            peak_mb = max(peak_mb, process_memory_mb(training.pid, "RssAnon"))
            time.sleep(_SAMPLE_S)
    finally:
        training.kill()
    return peak_mb


if __name__ == "__main__":
    typer.run(main)
