"""A version in a read-only store. Edge can't open a shard in a read-only folder, so searches use a temporary copy."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gallery.edge.manifest import OPEN
from gallery.edge.shard import EdgeGallery
from gallery.edge.version import check_not_lost
from gallery.errors import StoreUnusableError
from gallery.files import check_space, copy_sparse, file_errors, shared_lock
from gallery.spec import GallerySpec
from gallery.types import Entry


class Snapshot(EdgeGallery):
    """A temporary copy of a live version, for searches only. `close` removes the copy."""

    def __init__(self, folder: Path, spec: GallerySpec) -> None:
        """Copy the shard of a version and open the copy.

        Raises:
            StoreDamagedError: Files of the shard are missing or have another size than recorded.
            StoreLockedError: Another process has the version open, and may be modifying it.
            StoreFullError: The temporary folder has no space for the copy.
            StoreError: The shard can't be read.
        """
        self._folder_of_original = folder
        self._scratch = tempfile.TemporaryDirectory(prefix="lookalike-")
        copy = Path(self._scratch.name) / "shard"
        try:
            with file_errors(str(folder)):
                with shared_lock(folder / OPEN, f"gallery '{spec.name}'"):
                    check_not_lost(folder)
                    files = (folder / "shard").rglob("*")
                    check_space(copy, sum(path.stat().st_blocks * 512 for path in files))
                    shutil.copytree(folder / "shard", copy, copy_function=copy_sparse)
                for path in (copy, *copy.rglob("*")):
                    path.chmod(0o700 if path.is_dir() else 0o600)
            super().__init__(copy, spec)
        except BaseException:
            self._scratch.cleanup()
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
        self._scratch.cleanup()

    def _reject(self) -> None:
        raise StoreUnusableError(
            f"gallery '{self.spec.name}' can only be searched: this process may not write its files",
            place=str(self._folder_of_original),
        )
