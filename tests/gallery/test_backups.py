"""Backups: complete or rejected, and readable on another machine."""

import gzip
import hashlib
import json
import os
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gallery import Store, open_store
from gallery.errors import BackupError, GalleryNotFoundError, StoreDamagedError, StoreFullError, StoreLockedError
from tests.gallery.test_stores import CODES, SPEC, elsewhere, fill, first_key, home


@pytest.fixture
def store(store_url: str) -> Store:
    store = open_store(store_url)
    fill(store)
    return store


@pytest.fixture
def file(store: Store, tmp_path: Path) -> Path:
    store.backup("g", tmp_path / "g.tar.gz")
    return tmp_path / "g.tar.gz"


def test_a_backup_makes_the_same_gallery_elsewhere(file: Path, tmp_path: Path) -> None:
    other = open_store(f"edge:{tmp_path / 'other'}")
    spec = other.restore(file)
    assert (spec.name, spec.version, spec.count, spec.sources) == ("g", 1, 50, ("test",))
    assert other.list() == [spec]
    assert first_key(other, 7) == "k7"
    assert not other.differences("g")


def test_a_backup_comes_back_under_another_name_or_beside_the_live_version(store: Store, file: Path) -> None:
    assert store.restore(file, "h").version == 1
    fill(store, count=10, rebuild=True)
    assert store.restore(file).version == 3
    assert [(spec.name, spec.version, spec.count) for spec in store.list()] == [("g", 3, 50), ("h", 1, 50)]
    assert first_key(store, 40) == "k40"
    assert store.clean("g") == [1, 2]
    assert store.clean("g") == []


def test_a_restored_gallery_can_be_extended(store: Store, file: Path) -> None:
    store.restore(file)
    assert fill(store, count=50).version == 2


def test_a_gallery_can_be_backed_up_while_a_service_has_it_open(store: Store, store_url: str, tmp_path: Path) -> None:
    with elsewhere("gallery = store.open('g')", store_url):
        assert store.backup("g", tmp_path / "a.tar.gz").count == 50
    with (
        elsewhere("build = store.build(store.spec('g'))", store_url),
        pytest.raises(StoreLockedError, match="in use by"),
    ):
        store.backup("g", tmp_path / "b.tar.gz")


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.7, 0.99, 0.9999])
@pytest.mark.parametrize("harm", ["cut", "altered"])
def test_a_damaged_backup_is_rejected_and_nothing_changes(store: Store, file: Path, part: float, harm: str) -> None:
    content = bytearray(file.read_bytes())
    position = int(len(content) * part)
    if harm == "cut":
        del content[position:]
    else:
        content[position] ^= 0x55
    file.write_bytes(content)
    before = sorted(home_of(store).parent.rglob("*"))
    try:
        store.restore(file)
    except BackupError as error:
        assert str(file) in str(error)
        assert sorted(home_of(store).parent.rglob("*")) == before
        assert store.spec("g").version == 1
    else:  # the altered byte does not matter: the archive unpacks to the same content
        assert harm == "altered"
        assert not store.differences("g")
        assert store.spec("g").count == 50


def home_of(store: Store) -> Path:
    return home(store.url)


def test_an_altered_file_in_an_intact_archive_is_rejected(store: Store, file: Path, tmp_path: Path) -> None:
    with tarfile.open(file) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
        names = archive.getnames()
    (tmp_path / "unpacked" / "gallery.json").write_text("{}")
    with tarfile.open(file, "w:gz") as archive:
        for name in names:
            archive.add(tmp_path / "unpacked" / name, name, recursive=False)
    with pytest.raises(BackupError, match=r"it has been altered: gallery\.json"):
        store.restore(file)
    assert len(store.list()) == 1


@pytest.mark.parametrize("content", [None, b"", b"text", b"\x1f\x8bcut"])
def test_a_file_that_is_not_a_backup_is_rejected(store: Store, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "no.tar.gz").write_bytes(content)
    with pytest.raises(BackupError, match=r"backup .*no\.tar\.gz: "):
        store.restore(tmp_path / "no.tar.gz")


def test_a_backup_that_cannot_be_written_leaves_nothing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="can't be written: No such file or directory: name a file in another folder"):
        store.backup("g", tmp_path / "no" / "g.tar.gz")
    with pytest.raises(GalleryNotFoundError):
        store.backup("none", tmp_path / "none.tar.gz")
    assert not list(tmp_path.glob("*.tar.gz*"))


def test_an_altered_version_or_one_without_a_manifest_is_not_backed_up(store: Store, tmp_path: Path) -> None:
    matrix = next(home_of(store).rglob("*.dat"))
    as_built = matrix.read_bytes()
    matrix.write_bytes(np.random.default_rng(0).bytes(len(as_built)))
    with pytest.raises(BackupError, match="is not as it was built"):
        store.backup("g", tmp_path / "g.tar.gz")
    matrix.write_bytes(as_built)
    (home_of(store) / "v1" / "manifest.json").unlink()
    with pytest.raises(StoreDamagedError, match="a load into this version was interrupted: run the same"):
        store.backup("g", tmp_path / "g.tar.gz")
    assert not (tmp_path / "g.tar.gz").exists()


def test_clean_keeps_a_version_that_another_process_has_open(store: Store, store_url: str) -> None:
    with elsewhere("gallery = store.open('g')", store_url):
        fill(store, rebuild=True)
        assert store.clean("g") == []
    assert store.clean("g") == [1]
    assert first_key(store, 3) == "k3"
    assert len(CODES) == store.spec("g").count


def forge(file: Path, members: list[tuple[str, bytes | int]], tail: int = 0) -> Path:
    """Write an archive of these members: a name with its content, or with its size for a content of zeros."""
    with gzip.open(file, "wb", compresslevel=1) as packed:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = content if isinstance(content, int) else len(content)
            packed.write(member.tobuf(tarfile.USTAR_FORMAT))
            if isinstance(content, bytes):
                packed.write(content + bytes(-len(content) % 512))
            else:
                for _ in range(content // len(ZEROS)):
                    packed.write(ZEROS)
        packed.write(bytes(1024))
        for _ in range(tail // len(ZEROS)):
            packed.write(ZEROS)
    return file


ZEROS = bytes(1024 * 1024)


def manifest(content: object, *members: tuple[str, bytes | int]) -> list[tuple[str, bytes | int]]:
    """Return the members of an archive that begins with this manifest: JSON, or bytes."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return [("manifest.json", data), ("manifest.json.sha256", hashlib.sha256(data).hexdigest().encode()), *members]


def sum_of(content: bytes) -> dict[str, object]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def whole(spec: bytes) -> list[tuple[str, bytes | int]]:
    """Return the members of an archive that is what its manifest says, and has nothing but a description."""
    return manifest({"gallery.json": sum_of(spec)}, ("gallery.json", spec))


GOOD_SUM = {"size": 10, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "members",
    [
        manifest([]),
        manifest(5),
        manifest(None),
        manifest({}),
        manifest({"gallery.json": {}}),
        manifest({"gallery.json": None}),
        manifest({"gallery.json": {**GOOD_SUM, "size": "10"}}),
        manifest({"gallery.json": {**GOOD_SUM, "size": -1}}),
        manifest({"gallery.json": {**GOOD_SUM, "sha256": 7}}),
        manifest({"format": 1, "files": ["gallery.json"]}),
        manifest(b"[" * 100_000),
        manifest(b'{"a":' * 100_000),
        manifest(b"\xff\xfe"),
        manifest({"../outside": GOOD_SUM}, ("../outside", b"0123456789")),
        manifest({"/outside": GOOD_SUM}, ("/outside", b"0123456789")),
        whole(b"[]"),
        whole(b"{" * 9000),
        whole(json.dumps(SPEC.to_json()).encode()),
    ],
)
def test_a_backup_of_another_shape_is_rejected_in_one_line(
    store: Store, tmp_path: Path, members: list[tuple[str, bytes | int]]
) -> None:
    before = sorted(home_of(store).parent.rglob("*"))
    with pytest.raises(BackupError, match=r"backup .*forged\.tar\.gz: ") as raised:
        store.restore(forge(tmp_path / "forged.tar.gz", members))
    assert "\n" not in str(raised.value)
    assert sorted(home_of(store).parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("members", "tail", "message"),
    [
        (manifest({"gallery.json": GOOD_SUM}, ("gallery.json", 300_000_000)), 0, "expected 10 bytes, got 300,000"),
        ([("manifest.json", 300_000_000)], 0, "expected at most 16,777,216 bytes, got 300,000,000"),
        (manifest({}), 300_000_000, "more than the"),
        ([("first", 300_000_000), *manifest({})], 0, "no manifest.json in it"),
    ],
    ids=["file", "manifest", "tail", "first"],
)
def test_a_backup_takes_no_more_disk_and_memory_than_its_manifest_announces(
    store: Store, tmp_path: Path, members: list[tuple[str, bytes | int]], tail: int, message: str
) -> None:
    file = forge(tmp_path / "forged.tar.gz", members, tail)
    tracemalloc.start()
    with pytest.raises(BackupError, match=message):
        store.restore(file)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40_000_000
    assert not list(home_of(store).parent.glob(".restoring-*"))


def test_headers_of_any_size_are_not_read_into_memory(store: Store, tmp_path: Path) -> None:
    header = tarfile.TarInfo("header")
    header.type, header.size = tarfile.XHDTYPE, 300_000_000
    file = tmp_path / "forged.tar.gz"
    with gzip.open(file, "wb", compresslevel=1) as packed:
        packed.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(300):
            packed.write(ZEROS)
    with pytest.raises(BackupError, match=r"a header of 300,000,\d\d\d bytes"):
        store.restore(file)


def test_a_backup_that_does_not_fit_on_the_disk_is_rejected_before_it_is_unpacked(store: Store, tmp_path: Path) -> None:
    huge = manifest({"gallery.json": {**GOOD_SUM, "size": 10**18}})
    with pytest.raises(StoreFullError, match="the disk is full: expected 953,674,316,406 MB free"):
        store.restore(forge(tmp_path / "forged.tar.gz", huge))


def test_a_backup_with_another_count_than_it_says_is_rejected(store: Store, file: Path) -> None:
    with tarfile.open(file) as archive:
        contents = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    contents["gallery.json"] = json.dumps({**json.loads(contents["gallery.json"]), "count": 51}).encode()
    files = json.loads(contents["manifest.json"])
    files["files"]["gallery.json"] = sum_of(contents["gallery.json"])
    rest = [(name, content) for name, content in contents.items() if not name.startswith("manifest.json")]
    with pytest.raises(BackupError, match=r"expected 51 images, as in its gallery\.json, got 50"):
        store.restore(forge(file, manifest(files, *rest)))
    assert store.spec("g").version == 1


def test_what_a_killed_restore_leaves_is_removed_and_what_a_running_one_needs_is_not(
    store: Store, store_url: str, file: Path
) -> None:
    root = home_of(store).parent
    job = f"""
from pathlib import Path
from gallery.files import scratch_folder
context = scratch_folder(Path({str(root)!r}), ".restoring-")
context.__enter__()
"""
    with elsewhere(job, store_url):
        (scratch,) = root.glob(".restoring-*")
        store.restore(file)
        store.open("g").close()
        assert scratch.exists()
    store.open("g").close()
    assert not scratch.exists()
    old, young = root / ".restoring-old", root / ".restoring-young"  # of a release that took no lock
    for folder in (old, young):
        (folder / "version").mkdir(parents=True)
    os.utime(old, (0, 0))
    store.restore(file)
    assert (old.exists(), young.exists()) == (False, True)
