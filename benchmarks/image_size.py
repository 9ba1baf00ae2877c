"""Print the size of the Docker image by package: `python -m benchmarks.image_size`.

This needs no Docker: it installs the Dockerfile's Python packages into a temporary folder, and adds the published size
of the base image.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

# Size of the base image, python:3.11-slim (Debian 12, x86-64), as `docker image ls` shows it.
_BASE_MB = 125
# Number of the largest packages that are listed one by one.
_LARGEST = 12
_ROOT = Path(__file__).parent.parent


def main() -> None:
    """Install the packages, and print their sizes."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "lookalike"
        venv.create(home, with_pip=False)
        packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
        command = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
        constraints = ["--no-compile", "--constraint", str(_ROOT / "constraints.txt")]
        subprocess.run([*command, *constraints, str(_ROOT)], check=True)
        sizes = {path.name: _size_mb(path) for path in packages.iterdir()}
        total = _size_mb(home)
    print(f"{_BASE_MB:7.1f} MB  python:3.11-slim, as published")
    for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:_LARGEST]:
        print(f"{size:7.1f} MB  {name}")
    print(f"{total - sum(sorted(sizes.values())[-_LARGEST:]):7.1f} MB  everything else in the environment")
    print(f"{_BASE_MB + total:7.1f} MB  total")


def _size_mb(path: Path) -> float:
    if path.is_file():
        return path.stat().st_size / 1e6
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink()) / 1e6


if __name__ == "__main__":
    main()
