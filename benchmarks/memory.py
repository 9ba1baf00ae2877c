"""What memory a process takes, and its children, as Linux tells it."""

from pathlib import Path


def taken_mb(pid: int, field: str = "VmRSS") -> float:
    """Return a process's memory, as /proc names the kind: VmRSS for all resident, RssAnon without files; 0 if gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), 0.0)


def children(pid: int) -> list[int]:
    """Return a process's children; none if it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
