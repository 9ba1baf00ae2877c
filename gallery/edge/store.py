"""Galleries by name in a folder, with an atomic swap between versions.

DIR/NAME/CURRENT    "v2": the live version, replaced by an atomic rename
DIR/NAME/LOADING    lock of the one process that may build the gallery
DIR/NAME/v2/        a version, see `gallery.edge.version`
"""

import logging
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path

from gallery.base import Gallery
from gallery.edge.backup import pack, unpack
from gallery.edge.manifest import MANIFEST, OPEN, Manifest, write_manifest
from gallery.edge.version import (
    SPEC,
    LiveVersion,
    Version,
    can_resume,
    check_unaltered,
    file_errors,
    modified_by_service,
    open_lock,
    publish,
    read_spec,
    version_number,
    write_spec,
)
from gallery.errors import (
    GalleryNotFoundError,
    NewerFormatError,
    StoreDamagedError,
    StoreLockedError,
    StoreUnusableError,
)
from gallery.files import Lock, replace_file
from gallery.spec import DEFAULT_PLACEMENT, Calibration, GallerySpec, Placement, check_name

_log = logging.getLogger(__name__)

_CURRENT = "CURRENT"
_LOADING = "LOADING"


class EdgeStore:
    """The galleries of one folder."""

    def __init__(self, root: Path) -> None:
        """Take the folder, which is created when the first gallery is built.

        Raises:
            StoreError: The path is a file.
        """
        self._root = root
        self.url = f"edge:{root}"
        self._place = f"store {self.url}"
        if root.exists() and not root.is_dir():
            raise StoreUnusableError(
                "expected a folder, and this is a file: name another with --store", place=self._place
            )

    def check(self) -> None:
        """Do nothing: a folder always answers, and an error in one gallery must not make the others unavailable."""

    def list(self) -> list[GallerySpec]:
        """Return the descriptions of all live galleries, by name. Other folders are ignored."""
        with file_errors(self._place):
            names = sorted(path.parent.name for path in self._root.glob(f"*/{_CURRENT}"))
        specs = []
        for name in names:
            try:
                specs.append(self.spec(name))
            except (StoreDamagedError, NewerFormatError) as error:
                _log.warning("gallery '%s' is left out: %s", name, error)
        return specs

    def spec(self, name: str) -> GallerySpec:
        """Return the description of a gallery's live version."""
        return read_spec(self._live(name))

    def open(self, name: str) -> Gallery:
        """Open a gallery's live version, which no other process can open then."""
        folder = self._live(name)
        return LiveVersion(folder, read_spec(folder))

    def build(
        self, spec: GallerySpec, *, rebuild: bool = False, placement: Placement = DEFAULT_PLACEMENT
    ) -> "EdgeBuild":
        """Begin a gallery or its next version, extend the live one, or resume an interrupted build."""
        placement.require_default(self.url)
        home = self._root / spec.name
        with file_errors(self._place):
            home.mkdir(parents=True, exist_ok=True)
            lock = _loading_lock(home)
        try:
            return EdgeBuild(home, lock, self._begin(home, spec, rebuild))
        except BaseException:
            lock.close()
            raise

    def local_folder(self, name: str) -> Path:
        """Return the folder of a gallery's live version."""
        return self._live(name)

    def modified_by_service(self, name: str) -> bool:
        """Return whether a service has modified the live version since it was published."""
        return modified_by_service(self._live(name))

    def differences(self, name: str) -> Sequence[str]:
        """Compare the live version's files with its manifest."""
        folder = self._live(name)
        return Manifest.read(folder).differences(folder)

    def clean(self, name: str) -> Sequence[int]:
        """Remove the versions that are neither live nor open anywhere."""
        live = self._live(name)
        removed = []
        with file_errors(self._place), closing(_loading_lock(live.parent)):
            for folder in sorted(live.parent.glob("v*"), key=version_number):
                with suppress(StoreLockedError):
                    if folder != live:
                        open_lock(folder, name).close()
                        shutil.rmtree(folder)
                        removed.append(version_number(folder))
        return removed

    def backup(self, name: str, file: Path) -> GallerySpec:
        """Write the live version into one file."""
        live = self._live(name)
        with file_errors(self._place), closing(_loading_lock(live.parent)):
            spec = read_spec(live)
            pack(live, file)
            return spec

    def restore(self, file: Path, name: str = "") -> GallerySpec:
        """Unpack a backup and make it the live version, beside the previous one."""
        with file_errors(self._place):
            self._root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._root, prefix=".restoring-") as scratch:
                unpacked = Path(scratch) / "version"
                unpacked.mkdir()
                unpack(file, unpacked)
                spec = read_spec(unpacked, f"backup {file}")
                home = self._root / check_name(name or spec.name)
                home.mkdir(exist_ok=True)
                with closing(_loading_lock(home)):
                    number = max((version_number(folder) for folder in home.glob("v*")), default=0) + 1
                    spec = replace(spec, name=home.name, version=number)
                    write_spec(unpacked, spec)
                    write_manifest(unpacked)
                    unpacked.replace(home / f"v{number}")
                    replace_file(home / _CURRENT, f"v{number}\n".encode())
        return spec

    def drop(self, name: str) -> None:
        """Remove a gallery with all its versions, whether or not they can be read."""
        home = self._root / check_name(name)
        with ExitStack() as locks, file_errors(self._place):
            if not (home / _CURRENT).exists():
                raise self._not_found(name)
            locks.callback(_loading_lock(home).close)
            for path in home.glob(f"v*/{OPEN}"):
                locks.callback(open_lock(path.parent, name).close)
            (home / _CURRENT).unlink()
            shutil.rmtree(home)

    def _live(self, name: str) -> Path:
        current = self._root / check_name(name) / _CURRENT
        with file_errors(self._place):
            try:
                version = current.read_text("utf-8").strip()
            except (FileNotFoundError, NotADirectoryError):
                raise self._not_found(name) from None
        folder = current.parent / version
        if not (folder / SPEC).is_file():
            raise StoreDamagedError(
                f"gallery '{name}': {_CURRENT} names version '{version}', which has no {SPEC}: build it again with "
                f"`ingest load … --gallery {name} --rebuild`",
                place=self._place,
            )
        return folder

    def _not_found(self, name: str) -> GalleryNotFoundError:
        names = ", ".join(spec.name for spec in self.list())
        hint = f"there are: {names}" if names else "build one with `ingest load mnist`"
        return GalleryNotFoundError(f"no gallery '{name}': {hint}", place=self._place)

    def _begin(self, home: Path, spec: GallerySpec, rebuild: bool) -> Version:
        live = self._live(spec.name) if (home / _CURRENT).exists() else None
        if live and not rebuild:
            extended = read_spec(live).extended_by(spec)
            check_unaltered(live, spec.name)
            version = Version(live, extended)
            with file_errors(self._place):
                (live / MANIFEST).unlink(missing_ok=True)  # the files are about to change
            return version
        number = version_number(live) + 1 if live else 1
        folder = home / f"v{number}"
        spec = replace(spec, version=number)
        with file_errors(self._place):
            if folder.exists() and not can_resume(folder, spec):
                shutil.rmtree(folder)
            folder.mkdir(exist_ok=True)
            write_spec(folder, spec)
        return Version(folder, spec)


class EdgeBuild:
    """A version being built. Until `publish`, searches see the previous version, if there is one."""

    reopen = None

    def __init__(self, home: Path, lock: Lock, version: Version) -> None:
        """Take ownership of the loading lock and the open version."""
        self.gallery = version
        self._home = home
        self._lock = lock

    @property
    def local_folder(self) -> Path:
        """The version's folder."""
        return self.gallery.folder

    @property
    def modified_by_service(self) -> bool:
        """True if a service has modified the version since it was published."""
        return modified_by_service(self.gallery.folder)

    def index(self) -> None:
        """Build the search index."""
        self.gallery.index()

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        """Make this the live version in one atomic step."""
        folder = self.gallery.folder
        spec = replace(self.gallery.spec, count=self.gallery.count(), calibration=calibration)
        self.gallery.close()
        with file_errors(str(folder)):
            publish(folder, spec)
            replace_file(self._home / _CURRENT, f"{folder.name}\n".encode())
        return spec

    def close(self) -> None:
        """Close the version and release the loading lock."""
        self.gallery.close()
        self._lock.close()


def _loading_lock(home: Path) -> Lock:
    """Take the lock of the one process that may build a gallery."""
    return Lock(home / _LOADING, f"gallery '{home.name}'")
