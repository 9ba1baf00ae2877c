"""Tars and zips as sources: links, doubles, clutter, compressions and damage."""

import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.errors import ImageError
from ingest.errors import SourceError
from ingest.sources import Item, SourceName, open_source
from tests import digits

PNGS = [digits.png(Image.fromarray(pixels)) for pixels in digits.read("train")[0][:50]]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".tgz": gzip.compress, ".bz2": bz2.compress, ".tbz2": bz2.compress, ".tbz": bz2.compress,
    ".xz": lzma.compress, ".txz": lzma.compress,
}  # fmt: skip
ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tbz", ".zip", ".cbz")


def tar(*members: tuple[str, bytes | tuple[bytes, str]]) -> bytes:
    """Return a tar of files, given by their content, and links, given by their type and target."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                packed.addfile(member, io.BytesIO(content))
            else:
                member.type, member.linkname = content
                packed.addfile(member)
    return file.getvalue()


def pack(archive: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    if archive.suffix.lower() in (".zip", ".cbz"):
        with zipfile.ZipFile(archive, "w", compression) as packed:
            for name, content in files.items():
                packed.writestr(name, content)
    else:
        archive.write_bytes(COMPRESS.get(archive.suffix.lower(), bytes)(tar(*files.items())))
    return archive


def keys(path: Path | str, **options: object) -> list[str]:
    return [item.key for item in open_source(str(path), **options)]  # type: ignore[arg-type]


def is_image(item: Item) -> bool:
    try:
        item.image()
    except ImageError:
        return False
    return True


@pytest.mark.parametrize("ending", [*ENDINGS, ".TAR", ".Zip", ".TAR.GZ", ".CBZ"])
def test_an_archive_has_the_same_images_as_the_folder_it_was_made_from(tmp_path: Path, ending: str) -> None:
    photos = tmp_path / "photos"
    (photos / "inner").mkdir(parents=True)
    for number, content in enumerate(PNGS[:20]):
        (photos / "inner" / f"{number:03}.png").write_bytes(content)
    archive = pack(
        tmp_path / f"photos{ending}",
        {f"./{path.relative_to(photos)}": path.read_bytes() for path in sorted(photos.rglob("*.png"))},
    )
    of_folder, of_archive = (
        {item.key: (item.sha256, item.image().size) for item in open_source(str(path))} for path in (photos, archive)
    )
    assert of_archive == of_folder
    assert len(of_archive) == open_source(str(archive)).count == 20
    assert SourceName.parse(str(archive)).default_gallery == "photos"
    assert len(list(open_source(str(archive), limit=3))) == 3


def test_a_tar_may_be_compressed_with_zstandard(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    plain = tar(*((f"{i}.png", content) for i, content in enumerate(PNGS)))
    compressed = zstandard.ZstdCompressor(write_checksum=True).compress
    (tmp_path / "a.tar.zst").write_bytes(compressed(plain[:9000]) + compressed(plain[9000:]))  # two frames
    assert keys(tmp_path / "a.tar.zst") == [f"a/{i}.png" for i in range(50)]
    assert SourceName.parse(str(tmp_path / "a.tar.zst")).default_gallery == "a"
    content = bytearray((tmp_path / "a.tar.zst").read_bytes())
    for damaged in (content[:-5000], content[:-4] + b"\0\0\0\0"):
        (tmp_path / "a.tar.zst").write_bytes(damaged)
        with pytest.raises(SourceError, match=r"a\.tar\.zst: expected a complete \.tar or \.zip of images, got one"):
            keys(tmp_path / "a.tar.zst")


@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_a_path_that_climbs_out_of_an_archive_is_only_a_key(tmp_path: Path, ending: str) -> None:
    pack(tmp_path / f"a{ending}", {"../../etc/passwd": PNGS[0], "/etc/shadow": PNGS[0], ".hidden": PNGS[0]})
    before = sorted(tmp_path.rglob("*"))
    assert keys(tmp_path / f"a{ending}") == ["a/../../etc/passwd", "a//etc/shadow"]
    assert sorted(tmp_path.rglob("*")) == before


def test_links_inside_a_tar_are_images_and_others_are_reported(tmp_path: Path) -> None:
    hard, symbolic = tarfile.LNKTYPE, tarfile.SYMTYPE
    (tmp_path / "a.tar").write_bytes(
        tar(
            ("early.png", (symbolic, "x/one.png")),
            ("x/one.png", PNGS[1]),
            ("x/hard.png", (hard, "./x/one.png")),
            ("x/up.png", (symbolic, "../.store/two")),
            ("x/chain.png", (symbolic, "up.png")),
            (".store/two", PNGS[2]),
            ("out.png", (symbolic, "/etc/passwd")),
            ("circle.png", (symbolic, "circle.png")),
            ("folder", (symbolic, "x")),
            ("pipe.png", (tarfile.FIFOTYPE, "")),
        )
    )
    source = open_source(str(tmp_path / "a.tar"))
    items = {item.key: item for item in source}
    contents = {key: item.content for key, item in items.items() if not item.problem}
    assert contents == {
        **{f"a/{name}.png": PNGS[1] for name in ("early", "x/one", "x/hard")},
        **{f"a/{name}.png": PNGS[2] for name in ("x/up", "x/chain")},
    }
    assert {key: item.problem for key, item in items.items() if item.problem} == {
        "a/out.png": "expected a file, got a link to '/etc/passwd', which the archive does not have",
        "a/circle.png": "expected a file, got a link to 'circle.png', which the archive does not have",
        "a/pipe.png": "expected a regular file, got a pipe or a device",
    }
    assert source.notes == ["left out 1 linked folder: 'folder'"]
    assert source.count == len(items) == 8


def test_a_tar_made_from_hard_links_is_whole(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "b.png").write_bytes(PNGS[0])
    for name in ("a.png", "z.png"):
        os.link(tmp_path / "h" / "b.png", tmp_path / "h" / name)
    subprocess.run(["tar", "czf", "h.tgz", "h"], cwd=tmp_path, check=True)
    items = list(open_source(str(tmp_path / "h.tgz")))
    assert sorted(item.key for item in items) == ["h/h/a.png", "h/h/b.png", "h/h/z.png"]
    assert {item.content for item in items} == {PNGS[0]}


def test_links_inside_a_zip_are_images(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("x/one.png", PNGS[1])
        for name, target in (("x/link.png", "one.png"), ("gone.png", "no.png"), ("cats", "x")):
            link = zipfile.ZipInfo(name)
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            packed.writestr(link, target)
    source = open_source(str(tmp_path / "a.zip"))
    items = {item.key: item for item in source}
    assert items["a/x/link.png"].content == PNGS[1]
    assert "link to 'no.png'" in items["a/gone.png"].problem
    assert items.keys() == {"a/x/one.png", "a/x/link.png", "a/gone.png"}
    assert source.notes == ["left out 1 linked folder: 'cats'"]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_the_last_file_of_one_name_counts(tmp_path: Path, ending: str) -> None:
    members = [("a.png", PNGS[0]), ("b.png", PNGS[1]), ("./a.png", PNGS[2]), ("c.png", PNGS[3]), ("a.png", PNGS[4])]
    if ending == ".zip":
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as packed:
            for name, content in members:
                packed.writestr(name, content)
    else:
        (tmp_path / f"d{ending}").write_bytes(COMPRESS.get(Path(ending).suffix, bytes)(tar(*members)))
    source = open_source(str(tmp_path / f"d{ending}"))
    assert {item.key: item.content for item in source} == {"d/b.png": PNGS[1], "d/c.png": PNGS[3], "d/a.png": PNGS[4]}
    assert source.notes == ["left out 2 files (replaced by a later file of the same name), such as 'a.png'"]
    assert source.count == 3


def test_tars_one_behind_the_other_are_one_source(tmp_path: Path) -> None:
    both = tar(("a.png", PNGS[0])) + tar(("b.png", PNGS[1]), ("c.png", PNGS[2]))
    (tmp_path / "two.tar").write_bytes(both)
    (tmp_path / "two.tar.gz").write_bytes(gzip.compress(both) + gzip.compress(tar(("d.png", PNGS[3]))))
    assert keys(tmp_path / "two.tar") == ["two/a.png", "two/b.png", "two/c.png"]
    assert keys(tmp_path / "two.tar.gz") == ["two/a.png", "two/b.png", "two/c.png", "two/d.png"]
    (tmp_path / "padded.tar").write_bytes(tar(("a.png", PNGS[0])) + b"signed by somebody" * 100)
    assert keys(tmp_path / "padded.tar") == ["padded/a.png"]
    (tmp_path / "cut.tar").write_bytes(both[:-9_000])
    with pytest.raises(SourceError, match=r"cut\.tar: expected a complete"):
        keys(tmp_path / "cut.tar")


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path: Path) -> None:
    inner = pack(tmp_path / "inner.zip", {"x.png": PNGS[1]}).read_bytes()
    (tmp_path / "a.tar").write_bytes(tar(("a.png", PNGS[0]), ("inner.zip", inner)))
    source = open_source(str(tmp_path / "a.tar"))
    assert [item.key for item in source] == ["a/a.png"]
    assert source.notes == ["left out 1 file (not an image format): 'inner.zip'"]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.xz", ".tar.bz2", ".zip"])
@pytest.mark.parametrize("harm", ["cut", "altered"])
def test_a_damaged_archive_is_an_error(tmp_path: Path, ending: str, harm: str) -> None:
    archive = pack(tmp_path / f"a{ending}", {f"{i}.png": content for i, content in enumerate(PNGS)})
    content = bytearray(archive.read_bytes())
    if harm == "cut":
        del content[len(content) // 2 :]
    else:
        begin = len(content) // 2 // 512 * 512
        content[begin : begin + 2048] = b"x" * 2048
    archive.write_bytes(content)
    try:
        items = list(open_source(str(archive)))
    except SourceError as error:
        assert "can't be read" in str(error)
        assert "\n" not in str(error)
        assert len(str(error)) < 300
    else:  # a .zip has an index of its files, so the undamaged ones can be read
        assert ending == ".zip"
        assert 0 < sum(is_image(item) for item in items) < len(items)


@pytest.mark.parametrize("ending", [".tar.gz", ".tar.xz", ".tar.bz2"])
def test_a_wrong_checksum_is_found_before_anything_is_read(tmp_path: Path, ending: str) -> None:
    archive = pack(tmp_path / f"a{ending}", {f"{i}.png": content for i, content in enumerate(PNGS)})
    content = bytearray(archive.read_bytes())
    position = {".tar.gz": -8, ".tar.xz": -40, ".tar.bz2": -6}[ending]
    content[position] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(SourceError, match="got one that can't be read"):
        open_source(str(archive))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_file_in_a_zip_is_bad_alone(tmp_path: Path, compression: int) -> None:
    archive = pack(tmp_path / "a.zip", {f"{i}.png": content for i, content in enumerate(PNGS[:9])}, compression)
    with zipfile.ZipFile(archive) as packed:
        begin = packed.getinfo("4.png").header_offset
    content = bytearray(archive.read_bytes())
    content[begin + 60 : begin + 160] = b"~" * 100
    archive.write_bytes(content)
    items = list(open_source(str(archive)))
    assert [item.key for item in items if item.problem] == ["a/4.png"]
    assert items[4].problem.startswith("can't be read: ")
    assert sum(is_image(item) for item in items) == 8


def test_an_encrypted_file_in_a_zip_is_bad_alone(tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.zip", {"a.png": PNGS[0], "b.png": PNGS[1]})
    content = bytearray(archive.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(magic) + flags] |= 1
    archive.write_bytes(content)
    first, second = open_source(str(archive))
    assert "encrypted" in first.problem
    assert is_image(second)


@pytest.mark.parametrize(
    "content", [b"text" * 1000, b"", b"PK\x03\x04" + b"cut" * 500, gzip.compress(b"no tar" * 500, mtime=0)]
)
@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path, content: bytes, ending: str) -> None:
    (tmp_path / f"a{ending}").write_bytes(content)
    with pytest.raises(SourceError, match=rf"a\{ending}: expected a complete \.tar or \.zip of images") as raised:
        open_source(str(tmp_path / f"a{ending}"))
    assert len(str(raised.value)) < 250


def test_an_unknown_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    with pytest.raises(SourceError, match=r"a\.7z: expected a \.zip or \.tar, got a \.7z: unpack it first"):
        open_source(str(tmp_path / "a.7z"))
