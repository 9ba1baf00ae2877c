"""Builds a shard's search index in a process of its own, which dies with its parent.

The process runs this file by its path. `python -m gallery.edge.index` would first import the package and numpy, which
takes ten times as long as indexing a few hundred codes.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

import qdrant_edge as qe

# Linux's prctl option for the signal that a process gets when its parent ends (linux/prctl.h).
_PR_SET_PDEATHSIG = 1


def command(folder: Path) -> list[str]:
    """Return the command that indexes the shard in a folder. No process may have the shard open."""
    return [sys.executable, "-P", __file__, str(folder)]


def main() -> None:
    """Build the index of the shard in the folder that the command line names."""
    if sys.platform == "linux":
        # If this process outlived a killed load, it would keep the shard locked for the next load.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            sys.exit("the process that started the indexing has ended")
    shard = qe.EdgeShard.load(sys.argv[1])
    shard.optimize()
    shard.close()


if __name__ == "__main__":
    main()
