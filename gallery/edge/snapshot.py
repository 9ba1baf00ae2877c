"""A temporary copy of a version that can't be opened itself: in a read-only store, or because a service has it open."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from gallery.edge.manifest import MANIFEST, OPEN, Manifest
from gallery.edge.shard import EdgeGallery
from gallery.edge.version import check_not_lost
from gallery.errors import StoreLockedError, StoreUnusableError
from gallery.files import check_space, clear_scratch, copy_sparse, file_errors, scratch_folder, shared_lock
from gallery.spec import GallerySpec
from gallery.types import Entry

_SCRATCH = "lookalike-snapshot-"


class Snapshot(EdgeGallery):
    """A temporary copy of a live version, for searches only. `close` removes the copy."""

    def __init__(self, folder: Path, spec: GallerySpec, *, beside_service: bool = False) -> None:
        """Copy the shard of a version and open the copy.

        Args:
            folder: The version's folder.
            spec: Its description.
            beside_service: Copy a version that a service has open, but has not modified since it opened the version.

        Raises:
            StoreDamagedError: Files of the shard are missing or have another size than recorded.
            StoreLockedError: Another process has the version open, and may be modifying it; or the service has modified
                it during the copy.
            StoreFullError: The temporary folder has no space for the copy.
            StoreError: The shard can't be read.
        """
        self._folder_of_original = folder
        self._scratch = ExitStack()
        temporary = Path(tempfile.gettempdir())
        clear_scratch(temporary, _SCRATCH)
        try:
            copy = self._scratch.enter_context(scratch_folder(temporary, _SCRATCH)) / "shard"
            with file_errors(str(folder)):
                keep_unmodified = _unmodified if beside_service else _locked
                with keep_unmodified(folder, spec.name):
                    check_not_lost(folder)
                    files = (folder / "shard").rglob("*")
                    check_space(copy, sum(path.stat().st_blocks * 512 for path in files))
                    shutil.copytree(folder / "shard", copy, copy_function=copy_sparse)
                for path in (copy, *copy.rglob("*")):
                    path.chmod(0o700 if path.is_dir() else 0o600)
            super().__init__(copy, spec)
        except BaseException:
            self._scratch.close()
            raise

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Reject every call."""
        self._reject()

    def delete(self, keys: Sequence[str]) -> None:
        """Reject every call."""
        self._reject()

    def close(self) -> None:
        """Close and remove the copy."""
        super().close()
        self._scratch.close()

    def _reject(self) -> None:
        raise StoreUnusableError(
            f"gallery '{self.spec.name}' can only be searched: this process may not write its files",
            place=str(self._folder_of_original),
        )


def _locked(folder: Path, name: str) -> AbstractContextManager[None]:
    """Keep other processes from opening a version during the block."""
    return shared_lock(folder / OPEN, f"gallery '{name}'")


@contextmanager
def _unmodified(folder: Path, name: str) -> Iterator[None]:
    """Check after the block that no process has modified a version during the block.

    Processes remove the manifest before their first change, so an equal manifest means that no file changed.
    """
    before = Manifest.read(folder)
    yield
    if not (folder / MANIFEST).exists() or Manifest.read(folder) != before:
        raise StoreLockedError(f"gallery '{name}' was modified while it was read: run the same command again")
