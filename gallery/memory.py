"""The memory that this process may use."""

from pathlib import Path


def available_memory() -> int | None:
    """Return the memory that this process may use, in bytes: its cgroup's limit or the machine's available memory.

    None if the system does not tell.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except (OSError, StopIteration, ValueError):
        return None
    limits = [machine]
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if not controllers:  # version 2
            limits += _limits(Path("/sys/fs/cgroup"), path, "memory.max")
        elif "memory" in controllers.split(","):
            limits += _limits(Path("/sys/fs/cgroup/memory"), path, "memory.limit_in_bytes")
    return min(limits)


def _limits(root: Path, path: str, name: str) -> list[int]:
    """Return the limits of a cgroup and its parents. In a container, `root` may already be the process's own cgroup."""
    folder = root / path.lstrip("/")
    limits = []
    for file in (parent / name for parent in (folder, *folder.parents) if parent.is_relative_to(root)):
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # the file is missing, or says "max"
            continue
    return limits
