"""Files of release 0.1.0, which later releases open, and files of a newer format, which they reject in words."""

import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from encoder_service.encoder import Encoder
from gallery import GallerySpec, Query, Store, open_store
from gallery.errors import NewerFormatError, StoreDamagedError
from gallery.remote.connection import QdrantConnection
from gallery.remote.store import RemoteStore
from ingest.compact import compact
from ingest.loading.calibration import calibrate
from ingest.loading.verify import check
from ingest.progress import Stages
from tests import digits
from tests.commands import Command
from tests.gallery.test_stores import SPEC, fill

RELEASE = Path(__file__).parents[1] / "data" / "release-0.1.0"
NEWER = "made by a newer Lookalike: expected format 1 or older, got 2: upgrade Lookalike"


@pytest.fixture
def released(tmp_path: Path) -> Store:
    """A store that release 0.1.0 wrote, with the gallery `digits` of 40 images."""
    with tarfile.open(RELEASE / "store.tar.gz") as archive:
        archive.extractall(tmp_path / "released", filter="data")
    return open_store(f"edge:{tmp_path / 'released'}")


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def make_newer(path: Path) -> None:
    path.write_text(json.dumps({**read(path), "format": 2}))


def assert_finds_itself(store: Store, name: str = "digits") -> None:
    with closing(store.open(name)) as gallery:
        entries = [entry for batch in gallery.scroll() for entry in batch]
        assert len(entries) == gallery.count() == store.spec(name).count
        for entry in entries[::10]:
            assert gallery.search(Query(entry.code))[0].distance == pytest.approx(0, abs=1e-5)


def test_a_store_of_release_0_1_0_opens_and_answers(released: Store) -> None:
    (spec,) = released.list()
    assert (spec.name, spec.count, spec.sources) == ("digits", 40, ("digits",))
    assert spec.calibration and len(spec.calibration.errors) == len(spec.calibration.distances) == 101
    assert released.differences("digits") == []
    assert check(released, "digits", 0, Stages()) == ([], 0)
    assert_finds_itself(released)


def test_alterations_of_a_store_of_release_0_1_0_are_found(released: Store) -> None:
    shard = released.local_folder("digits") / "shard"
    altered = next(shard.rglob("chunk_0.mmap"))
    content = bytearray(altered.read_bytes())
    content[0] ^= 1
    altered.write_bytes(content)
    (line,) = released.differences("digits")
    assert line.startswith("shard/")


def test_a_store_of_release_0_1_0_can_be_extended_and_rebuilt(released: Store, encoder: Encoder) -> None:
    earlier = released.spec("digits").calibration
    extended = digits.build(released, encoder, count=10)
    assert (extended.version, extended.count, extended.sources) == (1, 50, ("digits", "digits/train"))
    # the errors of the new images say little about the others, whose errors are not relative
    assert earlier and extended.calibration
    assert (extended.calibration.errors, extended.calibration.is_relative) == (earlier.errors, False)
    assert extended.calibration.same_distance is not None
    folder = released.local_folder("digits")
    assert read(folder / "gallery.json")["format"] == read(folder / "manifest.json")["format"] == 1
    assert check(released, "digits", 0, Stages()) == ([], 0)
    assert_finds_itself(released)
    rebuilt = digits.build(released, encoder, count=10, rebuild=True)
    assert rebuilt.version == 2
    assert rebuilt.calibration and rebuilt.calibration.is_relative
    assert released.clean("digits") == [1]


def test_a_load_that_adds_nothing_measures_what_a_gallery_of_release_0_1_0_lacks(
    released: Store, encoder: Encoder
) -> None:
    with closing(released.open("digits")) as gallery:
        earlier, calibration = gallery.spec.calibration, calibrate([], gallery, encoder)
    assert earlier and calibration
    assert earlier.same_distance is None
    assert calibration.same_distance is not None
    assert calibration.errors == earlier.errors


def test_a_gallery_of_release_0_1_0_can_be_compacted(released: Store) -> None:
    spec = compact(released, "digits", Stages())
    assert spec and (spec.version, spec.count, spec.sources) == (2, 40, ("digits",))
    assert check(released, "digits", 0, Stages()) == ([], 0)
    assert_finds_itself(released)


def test_a_gallery_of_release_0_1_0_can_be_backed_up_and_restored(released: Store, tmp_path: Path) -> None:
    released.backup("digits", tmp_path / "new.tar.gz")
    other = open_store(f"edge:{tmp_path / 'other'}")
    assert other.restore(tmp_path / "new.tar.gz").count == 40
    assert_finds_itself(other)


def test_a_backup_of_release_0_1_0_can_be_restored(store_url: str) -> None:
    store = open_store(store_url)
    assert store.restore(RELEASE / "backup.tar.gz", "again").count == 40
    assert store.differences("again") == []
    assert_finds_itself(store, "again")


@pytest.fixture(params=["edge", "remote"])
def with_newer(request: pytest.FixtureRequest, store_url: str, tmp_path: Path) -> Store:
    """A store with the gallery `g` of a newer format, and the gallery `h`."""
    if request.param == "remote":
        connection: QdrantConnection = request.getfixturevalue("in_memory_qdrant")
        store: Store = RemoteStore(connection, tmp_path / "local")
    else:
        store = open_store(store_url)
    fill(store)
    fill(store, spec=GallerySpec("h", "seed", "f" * 64, 8))
    if request.param == "remote":
        connection.update_metadata("g@v1", {"lookalike": {**connection.metadata("g@v1")["lookalike"], "format": 2}})
    else:
        make_newer(store.local_folder("g") / "gallery.json")
    return store


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.spec("g"),
        lambda store: store.open("g"),
        lambda store: store.build(SPEC),
        lambda store: check(store, "g", 0, Stages()),
    ],
    ids=["spec", "open", "build", "check"],
)
def test_a_gallery_of_a_newer_format_is_rejected_in_words(with_newer: Store, use: Callable[[Store], object]) -> None:
    with pytest.raises(NewerFormatError) as raised:
        use(with_newer)
    assert raised.value.message == NEWER
    assert "gallery.json" in raised.value.place or "g@v1" in raised.value.place


def test_a_gallery_of_a_newer_format_is_left_out_of_the_list_and_logged(
    with_newer: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert [spec.name for spec in with_newer.list()] == ["h"]
    assert NEWER in caplog.text
    assert "damaged" not in caplog.text
    assert_finds_itself(with_newer, "h")


def test_a_gallery_of_a_newer_format_can_be_dropped_or_rebuilt(with_newer: Store) -> None:
    assert fill(with_newer, rebuild=True).version == 2
    assert [spec.name for spec in with_newer.list()] == ["g", "h"]
    with_newer.drop("g")
    assert [spec.name for spec in with_newer.list()] == ["h"]


def test_ingest_drop_removes_a_gallery_of_a_newer_format(store_url: str, command: Command) -> None:
    store = open_store(store_url)
    fill(store)
    make_newer(store.local_folder("g") / "gallery.json")
    refused = command("ingest", "check", "g", "--store", store_url)
    assert (refused.returncode, NEWER in refused.stderr, "damaged" in refused.stderr) == (5, True, False)
    assert command("ingest", "drop", "g", "--yes", "--store", store_url).returncode == 0
    assert store.list() == []


def test_an_interrupted_build_of_a_newer_format_is_discarded(store_url: str) -> None:
    store = open_store(store_url)
    store.build(SPEC).close()
    make_newer(Path(store_url.removeprefix("edge:")) / "g" / "v1" / "gallery.json")
    assert fill(store).count == 50


@pytest.mark.parametrize(
    "use",
    [
        lambda store, file: store.differences("g"),
        lambda store, file: store.backup("g", file),
        lambda store, file: store.build(SPEC),
    ],
    ids=["differences", "backup", "build"],
)
def test_a_manifest_of_a_newer_format_is_rejected_in_words(
    store_url: str, tmp_path: Path, use: Callable[[Store, Path], object]
) -> None:
    store = open_store(store_url)
    fill(store)
    manifest = store.local_folder("g") / "manifest.json"
    make_newer(manifest)
    with pytest.raises(NewerFormatError) as raised:
        use(store, tmp_path / "g.tar.gz")
    assert (raised.value.message, raised.value.place) == (NEWER, str(manifest))
    assert manifest.exists()
    assert not (tmp_path / "g.tar.gz").exists()


@pytest.mark.parametrize("newer", ["gallery.json", "manifest.json"])
def test_a_backup_of_a_newer_format_is_rejected_in_words_and_nothing_changes(
    store_url: str, tmp_path: Path, newer: str
) -> None:
    store = open_store(store_url)
    fill(store)
    file = tmp_path / "g.tar.gz"
    store.backup("g", file)
    rewrite(file, newer)
    with pytest.raises(NewerFormatError) as raised:
        store.restore(file)
    assert (raised.value.message, raised.value.place) == (NEWER, f"backup {file}")
    assert store.spec("g").version == 1
    assert len(list(Path(store_url.removeprefix("edge:")).iterdir())) == 1


def rewrite(backup: Path, newer: str) -> None:
    """Make one file in a backup newer, and adapt all sums."""
    with tarfile.open(backup) as archive:
        contents = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    contents[newer] = json.dumps({**json.loads(contents[newer]), "format": 2}).encode()
    manifest = json.loads(contents["manifest.json"])
    spec = contents["gallery.json"]
    manifest["files"]["gallery.json"] = {"size": len(spec), "sha256": hashlib.sha256(spec).hexdigest()}
    contents["manifest.json"] = json.dumps(manifest).encode()
    contents["manifest.json.sha256"] = hashlib.sha256(contents["manifest.json"]).hexdigest().encode()
    with tarfile.open(backup, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_unknown_fields_of_a_spec_are_ignored_and_missing_ones_take_their_defaults() -> None:
    required = {"name": "g", "encoder": "seed", "fingerprint": "f" * 64, "code_size": 8}
    assert GallerySpec.from_json({**required, "format": 1, "mood": "blue"}, "here") == GallerySpec(**required)  # type: ignore[arg-type]
    assert GallerySpec.from_json(SPEC.to_json(), "here") == SPEC


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"name": "g", "encoder": "seed", "code_size": 8}, "no fingerprint"),
        ({"some": "other", "program's": "file"}, "no name, encoder, fingerprint, code_size"),
        ({**SPEC.to_json(), "name": "../up"}, "gallery name"),
        ({**SPEC.to_json(), "calibration": {}}, "errors"),
        ([1, 2], r"expected a JSON object, got \[1, 2\]"),
        (None, "expected a JSON object, got None"),
    ],
)
def test_a_spec_without_its_required_fields_is_damaged(content: object, message: str) -> None:
    with pytest.raises(StoreDamagedError, match=f"^here: can't be read as a gallery's description: .*{message}"):
        GallerySpec.from_json(content, "here")


@pytest.mark.parametrize("content", [b"", b"[]", b"7", b'{"format": 1}', b'{"format": 1, "files": {"a": 3}}'])
def test_an_unreadable_manifest_is_damaged(store_url: str, content: bytes) -> None:
    store = open_store(store_url)
    fill(store)
    (store.local_folder("g") / "manifest.json").write_bytes(content)
    with pytest.raises(StoreDamagedError, match=r"manifest\.json: can't be read"):
        store.differences("g")
