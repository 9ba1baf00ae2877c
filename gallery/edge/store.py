"""Galleries by name in a folder, each version a Qdrant Edge shard, with an atomic swap between versions.

DIR/NAME/CURRENT             "v2": the live version, replaced by an atomic rename
DIR/NAME/LOADING             the lock of the one process that may build
DIR/NAME/v2/gallery.json     what it is, see `GallerySpec`
DIR/NAME/v2/manifest.json    its files with their sums, while no load into it is under way
DIR/NAME/v2/GROWN            there when a service has added or removed images since
DIR/NAME/v2/OPEN             the lock of the one process that may have it open
DIR/NAME/v2/shard/           Qdrant's own files
"""

import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from gallery.base import Gallery
from gallery.edge.backup import pack, unpack
from gallery.edge.manifest import GROWN, MANIFEST, differences, write_manifest
from gallery.edge.shard import EdgeGallery
from gallery.errors import GalleryNotFoundError, StoreDamagedError, StoreFullError, StoreLockedError, StoreUnusableError
from gallery.files import Lock, replace_file
from gallery.types import DEFAULT_PLACEMENT, Calibration, Entry, GallerySpec, Placement, check_name

_log = logging.getLogger(__name__)

_CURRENT = "CURRENT"
_SPEC = "gallery.json"


class EdgeStore:
    """The galleries of one folder."""

    def __init__(self, root: Path) -> None:
        """Name the folder; it is made when the first gallery is built.

        Raises:
            StoreError: It is a file.
        """
        self._root = root
        self.url = f"edge:{root}"
        if root.exists() and not root.is_dir():
            raise StoreUnusableError(
                f"store {self.url}: expected a folder, and this is a file: name another with --store"
            )

    def check(self) -> None:
        """Do nothing: a folder has nobody to answer, and what is wrong with a gallery in it concerns that one alone."""

    def list(self) -> list[GallerySpec]:
        """Return what the live galleries are, by name. Other folders are passed over, and damaged ones logged."""
        with _file_errors(self.url):
            names = sorted(path.parent.name for path in self._root.glob(f"*/{_CURRENT}"))
        specs = []
        for name in names:
            try:
                specs.append(self.spec(name))
            except StoreDamagedError as error:
                _log.warning("%s", error)
        return specs

    def spec(self, name: str) -> GallerySpec:
        """Return what the live version of a gallery is."""
        return _read_spec(self._live(name))

    def open(self, name: str) -> Gallery:
        """Open the live version of a gallery, which this process then holds alone."""
        folder = self._live(name)
        return _Live(folder, _read_spec(folder))

    def build(
        self, spec: GallerySpec, *, rebuild: bool = False, placement: Placement = DEFAULT_PLACEMENT
    ) -> "EdgeBuild":
        """Begin a gallery or its next version, extend the live one, or go on with a build that was cut off."""
        placement.require_default(self.url)
        home = self._root / spec.name
        with _file_errors(self.url):
            home.mkdir(parents=True, exist_ok=True)
            lock = Lock(home / "LOADING", f"gallery '{spec.name}'")
        try:
            return EdgeBuild(home, lock, self._begin(home, spec, rebuild))
        except BaseException:
            lock.close()
            raise

    def local_folder(self, name: str) -> Path:
        """Return the folder of the live version."""
        return self._live(name)

    def modified_by_service(self, name: str) -> bool:
        """Tell whether a service has changed the live version."""
        return (self._live(name) / GROWN).exists()

    def differences(self, name: str) -> Sequence[str]:
        """Compare the live version's files with its manifest."""
        return differences(self._live(name))

    def clean(self, name: str) -> Sequence[int]:
        """Remove the versions that are not live, nor open anywhere."""
        live = self._live(name)
        removed = []
        with _file_errors(self.url), closing(Lock(live.parent / "LOADING", f"gallery '{name}'")):
            for folder in sorted(live.parent.glob("v*"), key=_number):
                with suppress(StoreLockedError):
                    if folder != live:
                        Lock(folder / "OPEN", f"gallery '{name}'").close()
                        shutil.rmtree(folder)
                        removed.append(_number(folder))
        return removed

    def backup(self, name: str, file: Path) -> GallerySpec:
        """Write the live version into one file."""
        live = self._live(name)
        with _file_errors(self.url), closing(Lock(live.parent / "LOADING", f"gallery '{name}'")):
            pack(live, file)
            return _read_spec(live)

    def restore(self, file: Path, name: str = "") -> GallerySpec:
        """Make what a backup holds the live version, beside the one before."""
        with _file_errors(self.url):
            self._root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._root, prefix=".restoring-") as scratch:
                unpacked = Path(scratch) / "version"
                unpacked.mkdir()
                unpack(file, unpacked)
                spec = _read_spec(unpacked)
                home = self._root / check_name(name or spec.name)
                home.mkdir(exist_ok=True)
                with closing(Lock(home / "LOADING", f"gallery '{home.name}'")):
                    number = max((_number(folder) for folder in home.glob("v*")), default=0) + 1
                    spec = replace(spec, name=home.name, version=number)
                    _write_spec(unpacked, spec)
                    write_manifest(unpacked)
                    unpacked.replace(home / f"v{number}")
                    replace_file(home / _CURRENT, f"v{number}\n".encode())
        return spec

    def drop(self, name: str) -> None:
        """Remove a gallery with all its versions."""
        home = self._root / check_name(name)
        with _file_errors(self.url):
            if not (home / _CURRENT).exists():  # a damaged gallery can be dropped, too
                raise self._not_found(name)
        with ExitStack() as locks, _file_errors(self.url):
            for path in (home / "LOADING", *home.glob("v*/OPEN")):
                locks.callback(Lock(path, f"gallery '{name}'").close)
            (home / _CURRENT).unlink()
            shutil.rmtree(home)

    def _live(self, name: str) -> Path:
        current = self._root / check_name(name) / _CURRENT
        with _file_errors(self.url):
            try:
                version = current.read_text("utf-8").strip()
            except (FileNotFoundError, NotADirectoryError):
                raise self._not_found(name) from None
        folder = current.parent / version
        if not (folder / _SPEC).is_file():
            raise StoreDamagedError(
                f"gallery '{name}' in {self.url}: {_CURRENT} names '{version}', which is not there whole: "
                f"build it again with `ingest load … --name {name} --rebuild`"
            )
        return folder

    def _not_found(self, name: str) -> GalleryNotFoundError:
        names = ", ".join(spec.name for spec in self.list())
        hint = f"there are: {names}" if names else "build one with `ingest load mnist`"
        return GalleryNotFoundError(f"no gallery '{name}' in {self.url}: {hint}")

    def _begin(self, home: Path, spec: GallerySpec, rebuild: bool) -> "_Version":
        live = self._live(spec.name) if (home / _CURRENT).exists() else None
        if live and not rebuild:
            _check_unaltered(spec.name, live)
            version = _Version(live, _read_spec(live).extended_by(spec))
            (live / MANIFEST).unlink(missing_ok=True)  # its files are about to change
            return version
        number = _number(live) if live else 0
        folder = home / f"v{number + 1}"
        wanted = replace(spec, version=number + 1)
        if folder.exists() and not _can_resume(folder, wanted):
            shutil.rmtree(folder)
        with _file_errors(self.url):
            folder.mkdir(exist_ok=True)
            _write_spec(folder, wanted)
        return _Version(folder, wanted)


class EdgeBuild:
    """A version being built. Until `publish`, searches see the version before it, or none."""

    reopen = None

    def __init__(self, home: Path, lock: Lock, version: "_Version") -> None:
        """Take over the lock and the open version."""
        self.gallery = version
        self._home = home
        self._lock = lock

    @property
    def local_folder(self) -> Path:
        """The version's folder."""
        return self.gallery.folder

    @property
    def modified_by_service(self) -> bool:
        """Whether a service has changed it since it went live."""
        return (self.local_folder / GROWN).exists()

    def index(self) -> None:
        """Build the search index."""
        self.gallery.index()

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        """Make this the live version, in one step."""
        version = self.gallery
        spec = replace(version.spec, count=version.count(), calibration=calibration)
        version.close()
        with _file_errors(f"edge:{self._home.parent}"):
            (version.folder / GROWN).unlink(missing_ok=True)
            _write_spec(version.folder, spec)
            write_manifest(version.folder)
            replace_file(self._home / _CURRENT, f"{version.folder.name}\n".encode())
        return spec

    def close(self) -> None:
        """Close the version and let others build."""
        self.gallery.close()
        self._lock.close()


class _Version(EdgeGallery):
    """An open shard together with the lock that says who has it open."""

    def __init__(self, folder: Path, spec: GallerySpec) -> None:
        self.folder = folder
        with _file_errors(str(folder)):
            self._open_lock = Lock(folder / "OPEN", f"gallery '{spec.name}'")
        try:
            super().__init__(folder / "shard", spec)
        except BaseException:
            self._open_lock.close()
            raise

    def close(self) -> None:
        super().close()
        self._open_lock.close()


class _Live(_Version):
    """A version that is searched, and may be written to at the same time; then its files are described anew."""

    _changed = False

    def upsert(self, entries: Sequence[Entry]) -> None:
        self._change()
        super().upsert(entries)

    def delete(self, keys: Sequence[str]) -> None:
        self._change()
        super().delete(keys)

    def close(self) -> None:
        try:
            if self._changed:
                self._changed = False
                count = self.count()
                self.settle()
                with _file_errors(str(self.folder)):
                    _write_spec(self.folder, replace(self.spec, count=count))
                    write_manifest(self.folder)
        finally:
            super().close()

    def _change(self) -> None:
        if not self._changed:
            with _file_errors(str(self.folder)):
                (self.folder / GROWN).touch()
                (self.folder / MANIFEST).unlink(missing_ok=True)
            self._changed = True


def _number(folder: Path) -> int:
    """Return the version that a folder holds, 0 for a folder of another name."""
    return int(folder.name[1:]) if folder.name[1:].isdecimal() else 0


def _check_unaltered(name: str, live: Path) -> None:
    """See that a version is as it was built, before a load that would describe it anew."""
    with _file_errors(str(live)):
        # what is not Edge's can be made anew
        wrong = differences(live, under="shard/") if (live / MANIFEST).exists() else []
    if wrong:
        raise StoreDamagedError(
            f"gallery '{name}' is not as it was built: {wrong[0]}: build it again with --rebuild, or bring back a "
            f"backup with `ingest restore FILE --name {name}`"
        )


def _can_resume(folder: Path, wanted: GallerySpec) -> bool:
    try:
        return _read_spec(folder) == wanted
    except StoreDamagedError:
        return False


def _read_spec(folder: Path) -> GallerySpec:
    try:
        facts = json.loads((folder / _SPEC).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreDamagedError(f"{folder / _SPEC} can't be read as a gallery's description: {error}") from error
    return GallerySpec.from_json(facts, str(folder / _SPEC))


def _write_spec(folder: Path, spec: GallerySpec) -> None:
    replace_file(folder / _SPEC, (json.dumps(asdict(spec), indent=2) + "\n").encode())


@contextmanager
def _file_errors(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFullError(f"store {url}: the disk is full: make space and run the same again") from error
        name = os.fsdecode(error.filename) if error.filename else url
        raise StoreUnusableError(
            f"store {url} can't be used: {name}: {error.strerror}: name another with --store"
        ) from error
