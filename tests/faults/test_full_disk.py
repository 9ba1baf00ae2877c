"""A disk that fills up during a load or a rebuild. Needs the right to mount a tmpfs."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gallery import open_store
from tests.commands import Command

# Enough for the first thousands of images, and too little for all.
DISK_MB = 130

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"can't mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def count(command_process: Command, store: str) -> object:
    """Return the number of images in a gallery that answers a search."""
    searched = command_process("encoder-service", "search", "mnist/test/7", "--json", "--store", store)
    assert searched.returncode == 0, searched.stderr
    return json.loads(command_process("ingest", "list", "--json", "--store", store).stdout)[0]["count"]


@pytest.mark.parametrize("how", ["load", "rebuild"])
def test_a_full_disk_is_a_one_line_error_and_the_load_resumes(command_process: Command, disk: Path, how: str) -> None:
    store = f"edge:{disk}"
    load: tuple[str, ...] = ("load", "mnist", "--store", store, "--limit", "30000")
    if how == "rebuild":
        first = command_process("ingest", "load", "mnist", "--limit", "500", "--store", store)
        assert first.returncode == 0, first.stderr
        load = (*load, "--rebuild")
    full = command_process("ingest", *load)
    assert full.returncode == 5
    assert [line for line in full.stderr.splitlines() if line.startswith("error: ")] == full.stderr.splitlines()[-1:]
    assert "is full: expected 64 MB free" in full.stderr
    assert "Traceback" not in full.stderr
    if how == "rebuild":
        assert count(command_process, store) == 500
    else:
        assert open_store(store).list() == []
    subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
    again = command_process("ingest", *load, "--json")
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert summary["unchanged"] > 0
    assert summary["added"] + summary["unchanged"] == 30_000
    assert count(command_process, store) == 30_000
