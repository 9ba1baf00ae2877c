"""Read the memory and the children of a process from Linux's /proc."""

from pathlib import Path


def process_memory_mb(pid: int, field: str = "VmRSS") -> float:
    """Return the memory of a process in MB (2^20 bytes), or 0 if it has ended.

    Args:
        pid: Process id.
        field: Name of a field in /proc/PID/status: VmRSS is all resident memory, RssAnon is the anonymous part of it,
            without pages of files.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), 0.0)


def children(pid: int) -> list[int]:
    """Return the process ids of a process's children; empty if the process has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
