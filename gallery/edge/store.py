"""Galleries by name in a folder, with an atomic swap between versions.

DIR/NAME/CURRENT    "v2": the live version, replaced by an atomic rename
DIR/NAME/LOADING    lock of the one process that may build the gallery
DIR/NAME/v2/        a version, see `gallery.edge.version`
"""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from gallery.base import Gallery, say_nothing
from gallery.edge.backup import pack, unpack
from gallery.edge.compaction import EdgeCompaction, finish_compactions
from gallery.edge.manifest import GROWN, OPEN, REPLACES, Manifest, write_manifest
from gallery.edge.snapshot import Snapshot
from gallery.edge.version import (
    SPEC,
    LiveVersion,
    Version,
    can_resume,
    check_unaltered,
    has_unrecorded_changes,
    how_to_repair,
    is_complete,
    lost_files,
    modified_by_service,
    open_lock,
    read_spec,
    record_changes,
    spec_bytes,
    version_number,
    write_spec,
)
from gallery.errors import (
    BackupError,
    GalleryNotFoundError,
    InvalidQueryError,
    NewerFormatError,
    StoreDamagedError,
    StoreError,
    StoreLockedError,
    StoreUnusableError,
)
from gallery.files import Lock, clear_scratch, file_errors, replace_file, scratch_folder
from gallery.findings import FINDINGS
from gallery.formats import FORMAT_KEY, parse_object
from gallery.map import MAP
from gallery.memory import Parts, build_parts
from gallery.plurals import counted
from gallery.profiles import find_profile
from gallery.spec import DEFAULT_PLACEMENT, Calibration, GallerySpec, Placement, check_name

_log = logging.getLogger(__name__)

_CURRENT = "CURRENT"
_LOADING = "LOADING"
# Maximum bytes read from CURRENT: enough for a version's name, or for an error to quote any other content.
_CURRENT_BYTES = 40
_SCRATCH = ".restoring-"


class EdgeStore:
    """The galleries of one folder."""

    def __init__(self, root: Path) -> None:
        """Use a folder, which is created when the first gallery is built.

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

    def names(self) -> Sequence[str]:
        """Return the names of all galleries, whether or not they can be read. Other folders are ignored."""
        with file_errors(self._place):
            try:
                folders = sorted(self._root.iterdir())
            except FileNotFoundError:
                return []
        return [folder.name for folder in folders if _is_gallery(folder)]

    def list(self) -> list[GallerySpec]:
        """Return the description of each gallery's live version, sorted by name. Log and skip unreadable galleries."""
        specs = []
        for name in self.names():
            try:
                specs.append(self.spec(name))
            except (StoreError, NewerFormatError) as error:
                _log.warning("gallery '%s' is left out: %s", name, error)
        return specs

    def spec(self, name: str) -> GallerySpec:
        """Return the description of a gallery's live version."""
        return read_spec(self._live(name))

    def live_version(self, name: str) -> int:
        """Return the number of a gallery's live version."""
        return version_number(self._live(name))

    def open(self, name: str) -> Gallery:
        """Open a gallery's live version. No other process can open it until it is closed.

        If this process may not write the version's files, open a temporary copy, which can only be searched.
        """
        clear_scratch(self._root, _SCRATCH)
        folder = self._live(name)
        self._finish_compactions(folder)
        may_write = os.access(folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
        spec = read_spec(folder)
        return LiveVersion(folder, spec, keeps_journal=True) if may_write else Snapshot(folder, spec)

    def open_for_reading(self, name: str) -> Gallery:
        """Open a gallery's live version, or a temporary copy if a service that has not modified it has it open."""
        try:
            return self.open(name)
        except StoreLockedError:
            folder = self._live(name)
            if has_unrecorded_changes(folder):
                raise
            return Snapshot(folder, read_spec(folder), beside_service=True)

    def build(
        self,
        spec: GallerySpec,
        *,
        rebuild: bool = False,
        placement: Placement = DEFAULT_PLACEMENT,
        memory_bytes: int | None = None,
        say: Callable[[str], None] = say_nothing,
    ) -> "EdgeBuild":
        """Begin a gallery or its next version, extend the live one, or resume an interrupted build."""
        placement.require_default(self.url)
        parts = build_parts(memory_bytes, find_profile(spec.profile), spec.code_size)
        home = self._root / spec.name
        with file_errors(self._place):
            home.mkdir(parents=True, exist_ok=True)
            lock = _loading_lock(home)
        try:
            version = self._begin(home, spec, rebuild, parts)
            version.say = say
            return EdgeBuild(home, lock, version)
        except BaseException:
            lock.close()
            raise

    def compaction(self, gallery: Gallery) -> EdgeCompaction:
        """Begin to index a gallery anew, from its stored entries."""
        if not isinstance(gallery, LiveVersion):
            raise StoreUnusableError(
                f"gallery '{gallery.spec.name}' can't be compacted: this process may not write its files",
                place=self._place,
            )
        home = gallery.folder.parent
        with ExitStack() as stack, file_errors(self._place):
            lock = stack.enter_context(closing(_loading_lock(home)))
            finish_compactions(home, gallery.folder)
            stack.callback(finish_compactions, home, gallery.folder)
            newer = _versions(home)[-1]
            if newer != gallery.folder:
                raise StoreUnusableError(
                    f"gallery '{home.name}' can't be compacted, because it has an unfinished or unused version "
                    f"{newer.name}: finish its load, or remove it with `ingest clean {home.name}`",
                    place=self._place,
                )
            compaction = EdgeCompaction(gallery, partial(_make_live, home), lock)
            stack.pop_all()
            return compaction

    def local_folder(self, name: str) -> Path:
        """Return the folder of a gallery's live version."""
        return self._live(name)

    def modified_by_service(self, name: str) -> bool:
        """Return whether the live version has been modified since it was published."""
        return modified_by_service(self._live(name))

    def differences(self, name: str) -> Sequence[str]:
        """Compare the live version's files with its manifest, and return one line for each difference."""
        folder = self._live(name)
        record_changes(folder)
        with file_errors(str(folder)):
            return Manifest.read(folder).differences(folder)

    def clean(self, name: str) -> Sequence[int]:
        """Remove the versions that are neither live nor open anywhere."""
        live = self._live(name)
        removed = []
        with file_errors(self._place), closing(_loading_lock(live.parent)):
            for folder in _versions(live.parent):
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
            record_changes(live)
            spec = read_spec(live)
            contents = {SPEC: spec_bytes(spec)}
            if modified_by_service(live):
                contents[GROWN] = b""
            contents |= {name: (live / name).read_bytes() for name in (MAP, FINDINGS) if (live / name).exists()}
            pack(live, file, contents)
            return spec

    def restore(self, file: Path, name: str = "") -> GallerySpec:
        """Unpack a backup and make it the live version. The previous version stays until `clean`."""
        clear_scratch(self._root, _SCRATCH)
        with file_errors(self._place), scratch_folder(self._root, _SCRATCH) as scratch:
            unpacked = scratch / "v1"
            unpacked.mkdir()
            unpack(file, unpacked)
            spec = _restored_spec(unpacked, f"backup {file}")
            home = self._root / check_name(name or spec.name)
            home.mkdir(exist_ok=True)
            with closing(_loading_lock(home)):
                number = max(map(version_number, _versions(home)), default=0) + 1
                spec = replace(spec, name=home.name, version=number)
                write_spec(unpacked, spec)
                write_manifest(unpacked)
                unpacked.replace(home / f"v{number}")
                _make_live(home, number)
        return spec

    def drop(self, name: str) -> None:
        """Remove a gallery with all its versions, whether or not they can be read."""
        home = self._root / check_name(name)
        with ExitStack() as locks, file_errors(self._place):
            if not _is_gallery(home):
                raise self._not_found(name)
            locks.callback(_loading_lock(home).close)
            for path in home.glob(f"v*/{OPEN}"):
                locks.callback(open_lock(path.parent, name).close)
            # remove CURRENT first, so that no process opens the gallery if the removal is interrupted
            current = home / _CURRENT
            if current.is_dir():
                shutil.rmtree(current)
            current.unlink(missing_ok=True)
            shutil.rmtree(home)

    def _live(self, name: str) -> Path:
        """Return the folder of a gallery's live version. Every use of a gallery begins here.

        Raises:
            GalleryNotFoundError: No gallery has this name.
            StoreDamagedError: CURRENT does not name a version, or that version has no description.
            StoreUnusableError: The files can't be read.
        """
        home = self._root / check_name(name)
        with file_errors(self._place):
            try:
                version = _read_current(home)
            except FileNotFoundError:
                if not _is_gallery(home):
                    raise self._not_found(name) from None
                version = None
            folder = home / (version or "")
            if version_number(folder) and folder.parent == home and (folder / SPEC).is_file():
                return folder
            others = [folder.name for folder in _versions(home) if is_complete(folder) and (folder / SPEC).is_file()]
        if version is None:
            problem = f"{_CURRENT}, the file that names the live version, is missing or is not a file"
        else:
            problem = f"{_CURRENT} names version {version!r}, which has no {SPEC}"
        choice = f"write the right one of its versions ({', '.join(others)}) into {_CURRENT}, or " if others else ""
        raise StoreDamagedError(f"gallery '{name}': {problem}: {choice}{how_to_repair(name)}", place=self._place)

    def _not_found(self, name: str) -> GalleryNotFoundError:
        names = ", ".join(self.names())
        hint = f"there are: {names}" if names else "build one with `ingest load mnist`"
        return GalleryNotFoundError(f"no gallery '{name}': {hint}", place=self._place)

    def _begin(self, home: Path, spec: GallerySpec, rebuild: bool, parts: Parts) -> Version:
        live = self._live_or_complete(home)
        if live and not rebuild:
            extended = read_spec(live).extended_by(spec)
            check_unaltered(live, spec.name)
            return LiveVersion(live, extended, parts)
        if live:
            finish_compactions(home, live)
        number = version_number(live) + 1 if live else 1
        folder = home / f"v{number}"
        spec = replace(spec, version=number)
        with file_errors(self._place):
            if folder.exists() and not can_resume(folder, spec):
                shutil.rmtree(folder)
            folder.mkdir(exist_ok=True)
            write_spec(folder, spec)
        return Version(folder, spec, parts)

    def _live_or_complete(self, home: Path) -> Path | None:
        """Return the folder of the live version; None if the gallery has no complete version.

        If a load died before it wrote CURRENT, the newest complete version counts as live.
        """
        with file_errors(self._place):
            if not os.path.lexists(home / _CURRENT):
                return next((folder for folder in reversed(_versions(home)) if is_complete(folder)), None)
        return self._live(home.name)

    def _finish_compactions(self, live: Path) -> None:
        """Remove what killed compactions have left, unless a compaction or a load is running."""
        if any(live.parent.glob(f"v*/{REPLACES}")):
            with suppress(OSError, StoreError), closing(_loading_lock(live.parent)):
                finish_compactions(live.parent, live)


class EdgeBuild:
    """A version being built. Until `publish`, searches see the previous version, if there is one."""

    reopen = None

    def __init__(self, home: Path, lock: Lock, version: Version) -> None:
        """Take ownership of the loading lock and the open version."""
        self.gallery = version
        self._home = home
        self._lock = lock
        self._modified_before = modified_by_service(version.folder)
        self._was_as_published = is_complete(version.folder) and not self._modified_before
        if isinstance(version, LiveVersion):
            version.mark()  # every load changes files of the version, at least the ledger

    @property
    def local_folder(self) -> Path:
        """The version's folder."""
        return self.gallery.folder

    @property
    def modified_by_service(self) -> bool:
        """True if the version had been modified between its publication and the beginning of this build."""
        return self._modified_before

    def check_space(self, new_count: int) -> None:
        """Check that the disk has space for that many more entries, and for their index."""
        self.gallery.check_space(new_count)

    def index(self) -> None:
        """Build the search index."""
        self.gallery.index()

    def publish(self, calibration: Calibration | None = None) -> GallerySpec:
        """Make this the live version in one atomic step."""
        spec = self.gallery.spec.published(self.gallery.count(), calibration)
        self.gallery.publish(spec)
        with file_errors(self._place):
            _make_live(self._home, spec.version)
        return spec

    def close(self) -> None:
        """Close the version and release the loading lock.

        The count and the manifest of a live version are recorded, as in `LiveVersion.close`.
        """
        folder = self.gallery.folder
        try:
            self.gallery.close()
            if self._was_as_published and isinstance(self.gallery, LiveVersion) and not self.gallery.is_modified:
                (folder / GROWN).unlink(missing_ok=True)
        finally:
            self._lock.close()

    @property
    def _place(self) -> str:
        return str(self._home)


def _loading_lock(home: Path) -> Lock:
    """Take the lock of the one process that may build a gallery."""
    return Lock(home / _LOADING, f"gallery '{home.name}'")


def _make_live(home: Path, version: int) -> None:
    """Make a complete version the live one, atomically."""
    replace_file(home / _CURRENT, f"v{version}\n".encode())


def _read_current(home: Path) -> str | None:
    """Return the content of CURRENT, which should name the live version; None if CURRENT is a folder.

    Raises:
        OSError: The file is missing or can't be read.
    """
    try:
        with (home / _CURRENT).open("rb") as file:
            return file.read(_CURRENT_BYTES).decode(errors="backslashreplace").strip()
    except IsADirectoryError:
        return None
    except NotADirectoryError as error:  # `home` is a file
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(home)) from error


def _is_gallery(home: Path) -> bool:
    """Return whether a folder is a gallery with a published version. A folder that can't be read counts as one."""
    try:
        check_name(home.name)
        return _CURRENT in os.listdir(home) or any(map(is_complete, _versions(home)))  # noqa: PTH208 (names suffice)
    except (InvalidQueryError, FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # the folder can't be read: opening the gallery reports why
        return True


def _versions(home: Path) -> list[Path]:
    """Return the folders of a gallery's versions, oldest first."""
    return sorted(filter(version_number, home.glob("v*")), key=version_number)


def _restored_spec(folder: Path, place: str) -> GallerySpec:
    """Return the description in an unpacked backup, and check that the gallery can be opened.

    Raises:
        BackupError: The gallery can't be opened, or its number of images is not the one in the description.
        NewerFormatError: A newer release made the backup.
    """
    try:
        content = parse_object((folder / SPEC).read_bytes())
        spec = GallerySpec.from_json(content, place)
        if FORMAT_KEY not in content:
            # a backup of release 0.1.0 does not say whether a service modified the gallery, so assume that one did
            (folder / GROWN).touch()
        problems = lost_files(folder)
        if not problems:
            with closing(Version(folder, spec)) as version:
                count = version.count()
            if count != spec.count:
                problems = [f"expected {counted(spec.count, 'image')}, as in its {SPEC}, got {count:,}"]
    except (OSError, ValueError, StoreDamagedError) as error:
        problems = [error.message if isinstance(error, StoreDamagedError) else str(error)]
    if problems:
        raise BackupError(f"its gallery can't be opened: {problems[0]}: use another copy", place=place)
    return spec
