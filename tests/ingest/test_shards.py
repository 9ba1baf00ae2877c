"""Several files as one source: folders of shards, braces, and Parquet."""

import json
import pickle
import sys
from pathlib import Path

import pytest

from ingest.errors import SourceError, SourceNotFoundError
from ingest.sources import SourceName, open_source
from tests.ingest.test_archives import PNGS, keys, pack
from tests.ingest.test_labels import sample


def shards(folder: Path, count: int = 3) -> Path:
    """Return a folder as img2dataset leaves it."""
    folder.mkdir()
    for shard in range(count):
        files: dict[str, bytes] = {}
        for number in range(2):
            files |= sample(f"{shard:05}{number:04}", f"c{shard}", as_json=False)
        pack(folder / f"{shard:05}.tar", files)
        (folder / f"{shard:05}.parquet").write_bytes(b"PAR1")
        (folder / f"{shard:05}_stats.json").write_text("{}")
    return folder


def test_a_folder_of_shards_is_one_source(tmp_path: Path) -> None:
    source = open_source(str(shards(tmp_path / "birds")))
    items = list(source)
    assert [item.key for item in items] == [f"birds/{s:05}/{s:05}{n:04}.jpg" for s in range(3) for n in range(2)]
    assert [item.label for item in items] == ["c0", "c0", "c1", "c1", "c2", "c2"]
    assert (source.name, source.count) == ("birds", 6)
    assert source.notes == [
        "00000.tar: left out 4 files (not an image format), such as '000000000.json'",
        "and similar notes for 2 other shards",
    ]
    assert keys(source.place) == [item.key for item in pickle.loads(pickle.dumps(source))]
    assert len(keys(source.place, limit=3)) == open_source(source.place, limit=3).count == 3
    assert len(keys(source.place, exclude=["00001.tar"])) == 4


def test_a_folder_with_images_beside_an_archive_is_a_folder(tmp_path: Path) -> None:
    (shards(tmp_path / "birds") / "a.png").write_bytes(PNGS[0])
    assert keys(tmp_path / "birds") == ["birds/a.png"]


def test_braces_name_a_range_of_shards(tmp_path: Path) -> None:
    shards(tmp_path / "birds", 12)
    name = str(tmp_path / "birds" / "{00009..00011}.tar")
    source = open_source(name)
    assert keys(name) == [f"birds/{s:05}/{s:05}{n:04}.jpg" for s in (9, 10, 11) for n in range(2)]
    assert keys(source.place) == keys(name)
    assert SourceName.parse("train-{000..009}.tar.gz").default_gallery == "train"
    assert SourceName.parse(name).default_gallery == "birds"
    with pytest.raises(SourceError, match=r"00012\.tar: expected a shard, got no such file"):
        open_source(str(tmp_path / "birds" / "{00009..00012}.tar"))
    with pytest.raises(SourceNotFoundError, match=r"expected one of mnist, .*shard-\{000\.\.009\}\.tar"):
        open_source(str(tmp_path / "birds" / "{a..b}.tar"))


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    (shards(tmp_path / "birds") / "00001.tar").write_bytes(b"cut")
    with pytest.raises(SourceError, match=r"00001\.tar: expected a complete \.tar"):
        open_source(str(tmp_path / "birds"))


def parquet(path: Path, *, as_struct: bool = True, classes: tuple[str, ...] = ()) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    image = [{"bytes": png, "path": None} for png in PNGS] if as_struct else list(PNGS)
    table = arrow.table({"image": image, "label": [i % 2 for i in range(50)], "text": ["x"] * 50})
    if classes:
        features = {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path, row_group_size=20)
    return path


@pytest.mark.parametrize("as_struct", [True, False])
def test_a_parquet_file_has_images_and_labels(tmp_path: Path, as_struct: bool) -> None:
    source = open_source(str(parquet(tmp_path / "train.parquet", as_struct=as_struct)))
    items = list(source)
    assert [item.content for item in items] == PNGS
    assert [item.label for item in items[:3]] == ["0", "1", "0"]
    assert (items[-1].key, source.count, source.name) == ("train/49", 50, "train.parquet")
    assert len(list(pickle.loads(pickle.dumps(source)))) == 50
    assert SourceName.parse(source.place).default_gallery == "train"
    assert keys(source.place, limit=30)[-1] == "train/29"


def test_a_folder_of_parquet_files_has_the_names_of_the_classes(tmp_path: Path) -> None:
    for number in range(2):
        parquet(tmp_path / "data" / f"train-{number:05}-of-00002.parquet", classes=("cat", "dog"))
    (tmp_path / "data" / "README.md").touch()
    items = list(open_source(str(tmp_path / "data")))
    assert [item.label for item in items] == ["cat", "dog"] * 50
    assert items[50].key == "data/train-00001-of-00002/0"


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "train.parquet")
    content = bytearray(path.read_bytes())
    for damaged in (content[:-3], b"text" * 99, content[:2000] + b"~" * 9000 + content[11_000:]):
        path.write_bytes(damaged)
        try:
            items = list(open_source(str(path)))
        except SourceError as error:
            assert f"{path}: expected a" in str(error)
        else:  # pages of uncompressed values have no checksum
            assert [item.content for item in items] != PNGS
    arrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(arrow.table({"url": ["x"]}), path)
    with pytest.raises(SourceError, match="expected a column of image files, as bytes, got url"):
        open_source(str(path))


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match=r"a\.parquet: expected the package pyarrow, .*\.\[parquet\]'"):
        open_source(str(tmp_path / "a.parquet"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    (tmp_path / "a.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(SourceError, match=r"a\.tar\.zst: expected the package zstandard, .*\[zst\]"):
        open_source(str(tmp_path / "a.tar.zst"))
