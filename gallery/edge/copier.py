"""Makes the next version of a gallery from entries that it reads from its standard input, in a process of its own.

A process of its own, because Edge holds the GIL while it writes to a shard, flushes or closes it. In the process of a
service, that would delay searches, for seconds if the gallery is large. The process ends with its parent.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from gallery.edge.version import Version, read_spec
from gallery.errors import LookalikeError
from gallery.memory import LEAST, PROCESSES, available_memory, build_parts
from gallery.profiles import find_profile
from gallery.types import Entry

# Niceness of the process and of the index process that it starts. Linux then gives a search three times as much of a
# busy processor. At 19, the lowest priority, a busy machine would hardly ever finish a compaction.
_NICENESS = 5


def start(folder: Path) -> "subprocess.Popen[bytes]":
    """Start the process that makes the version in a folder, which must have its description already.

    Send it batches of entries with `send`, and then None. The process then builds the index, publishes the version and
    ends. If it fails, its standard output has the error, which `error_of` returns.
    """
    command = [sys.executable, "-P", "-m", __name__, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def send(process: "subprocess.Popen[bytes]", batch: Sequence[Entry] | None) -> None:
    """Send a batch of entries, or None after the last one.

    Raises:
        BrokenPipeError: The process has ended.
    """
    assert process.stdin
    pickle.dump(batch, process.stdin)
    process.stdin.flush()


def error_of(process: "subprocess.Popen[bytes]") -> LookalikeError | None:
    """Return the error with which the process has ended; None if it was killed or failed unexpectedly."""
    assert process.stdout
    content = process.stdout.read()
    return pickle.loads(content) if content else None


def main() -> None:
    """Make the version in the folder that the command line names."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    os.nice(_NICENESS)
    try:
        _make(Path(sys.argv[1]))
    except (EOFError, pickle.UnpicklingError):
        sys.exit("the process that started the copying has ended")
    except LookalikeError as error:
        pickle.dump(error, sys.stdout.buffer)
        sys.exit(error.exit_code)


def _make(folder: Path) -> None:
    spec = read_spec(folder)
    memory = available_memory()
    # the other half is for the service, which goes on searching
    half = max(memory // 2, PROCESSES + LEAST) if memory else None
    parts = build_parts(half, find_profile(spec.profile), spec.code_size)
    with closing(Version(folder, spec, parts)) as version:
        while batch := pickle.load(sys.stdin.buffer):
            version.upsert(batch)
        threading.Thread(target=_end_with_parent, daemon=True).start()
        version.index()
        version.publish(replace(spec, count=version.count()))


def _end_with_parent() -> None:
    """Wait until the parent has closed its end of standard input, which it does when it dies, and end the process."""
    os.read(sys.stdin.fileno(), 1)  # nothing follows the last batch
    os._exit(1)


if __name__ == "__main__":
    main()
