"""`python -m gallery.edge.index FOLDER`: build a shard's search index. The process dies with its parent."""

import ctypes
import os
import signal
import sys

from gallery.edge.shard import optimise

# Linux's prctl option for the signal that a process gets when its parent ends (linux/prctl.h).
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Build the index of the shard in the folder that the command line names."""
    if sys.platform == "linux":
        # If this process outlived a killed load, it would keep the shard locked for the next load.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:
            sys.exit("the process that started the indexing has ended")
    optimise(sys.argv[1])


if __name__ == "__main__":
    main()
