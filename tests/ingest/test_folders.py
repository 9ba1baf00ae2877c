"""Folders as sources: clutter, links, what can't be listed, what is excluded, and large files."""

import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.errors import ImageError
from gallery.errors import InvalidInputError
from ingest.errors import SourceError
from ingest.sources import open_source
from ingest.sources.folder import FolderSource
from tests import digits
from tests.commands import Command
from tests.ingest.test_archives import PNGS, is_image, keys, pack

CLUTTER = {
    "Thumbs.db", "sub/thumbs.DB", "Desktop.ini", "Icon\r", "@eaDir/a.png/SYNOFILE_THUMB_M.png", "sub/#recycle/b.png",
    "$RECYCLE.BIN/c.png", "__MACOSX/d.png", "._a.png", ".hidden/e.png", "System Volume Information/f.png",
}  # fmt: skip
OTHERS = {"a.png.json", "a.xmp", "Clip.MP4", "notes.txt", "sub/a.AAE", "list.csv"}
IMAGES = {"a.png", "sub/b", "sub/c.JPG", "d.unknown"}


def fill(folder: Path, names: set[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PNGS[0])
    return folder


@pytest.mark.parametrize("ending", ["", ".zip", ".tar"])
def test_clutter_is_the_same_in_folders_and_archives(tmp_path: Path, ending: str) -> None:
    names = CLUTTER | OTHERS | IMAGES
    path = tmp_path / f"p{ending}"
    if ending:
        pack(path, dict.fromkeys(sorted(names), PNGS[0]))
    else:
        fill(path, names)
    source = open_source(str(path))
    assert {item.key.removeprefix("p/") for item in source} == IMAGES
    assert source.count == len(IMAGES)
    (note,) = source.notes
    assert note.startswith(f"left out {len(OTHERS)} files (not an image format), such as ")


def test_a_folder_of_clutter_alone_says_what_it_has(tmp_path: Path) -> None:
    fill(tmp_path / "p", {"notes.txt", "Thumbs.db"})
    with pytest.raises(
        SourceError,
        match=r"folder .*p: expected image files, such as \.png or \.jpg, got 1 other file, such as 'notes\.txt'",
    ):
        open_source(str(tmp_path / "p"))


@pytest.mark.parametrize("ending", ["", ".zip", ".tar"])
@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["*.gif"], {"a.png", "raw/b.png", "x/raw/c.png", "x/y.png"}),
        (["raw"], {"a.png", "x/y.png", "x/z.GIF"}),
        (["x/raw/"], {"a.png", "raw/b.png", "x/y.png", "x/z.GIF"}),
        (["x/*"], {"a.png", "raw/b.png"}),
        (["A.png", "?/y*"], {"raw/b.png", "x/raw/c.png", "x/z.GIF"}),
    ],
)
def test_what_is_excluded_is_left_out(tmp_path: Path, ending: str, exclude: list[str], left: set[str]) -> None:
    names = {"a.png", "raw/b.png", "x/raw/c.png", "x/y.png", "x/z.GIF"}
    path = tmp_path / f"p{ending}"
    pack(path, dict.fromkeys(sorted(names), PNGS[0])) if ending else fill(path, names)
    source = open_source(str(path), exclude=exclude)
    assert {item.key.removeprefix("p/") for item in source} == left
    assert (source.count, list(source.notes)) == (len(left), [])


def test_only_files_can_be_excluded() -> None:
    with pytest.raises(InvalidInputError, match="--exclude: expected a folder or an archive, got mnist/test"):
        open_source("mnist/test", exclude=["*.png"])


def test_linked_folders_are_followed_unless_they_lead_in_a_circle(tmp_path: Path) -> None:
    photos, elsewhere = fill(tmp_path / "photos", {"a.png", "in/b.png"}), fill(tmp_path / "cats", {"c.png", "d/e.png"})
    for link, target in (
        (photos / "kittens", elsewhere),
        (photos / "twice", elsewhere),
        (photos / "inside", photos / "in"),
        (photos / "in" / "round", photos),
        (photos / "in" / "above", tmp_path),
        (elsewhere / "d" / "back", elsewhere),
        (elsewhere / "home", photos),
    ):
        link.symlink_to(target)
    source = open_source(str(photos))
    assert [item.key for item in source] == [
        "photos/a.png",
        "photos/in/b.png",
        "photos/kittens/c.png",
        "photos/kittens/d/e.png",
    ]
    assert source.count == 4
    assert sorted(source.notes) == [
        "left out 1 linked folder (contains the link): 'in/above'",
        "left out 5 linked folders (read anyway), such as 'inside'",
    ]


def unreadable(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make listing folders of these names fail, as chmod does for everybody but root."""
    scandir = os.scandir

    def scan(path: os.PathLike[str]) -> object:
        if Path(path).name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)


def test_a_folder_that_cannot_be_listed_is_named_and_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = fill(tmp_path / "photos", {"a.png", "lost+found/b.png", "x/private/c.png", "z/d.png"})
    unreadable(monkeypatch, "lost+found", "private")
    source = open_source(str(photos))
    assert [item.key for item in source] == ["photos/a.png", "photos/z/d.png"]
    assert source.notes == ["left out 2 folders (can't be listed: Permission denied), such as 'lost+found'"]
    with pytest.raises(SourceError, match=r"lost\+found: can't be listed: .* denied: .*--exclude 'lost\+found'"):
        open_source(str(photos), complete=True)
    complete = open_source(str(photos), complete=True, exclude=["lost+found", "x/private"])
    assert [item.key for item in complete] == ["photos/a.png", "photos/z/d.png"]


def test_a_source_that_cannot_be_listed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = fill(tmp_path / "photos", {"a.png"})
    unreadable(monkeypatch, "photos")
    with pytest.raises(SourceError, match="photos: can't be listed: Permission denied"):
        open_source(str(photos))


def test_folders_may_be_deep(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    depth = sys.getrecursionlimit() + 200
    descriptor = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    with os.fdopen(os.open("a.png", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor), "wb") as file:
        file.write(PNGS[0])
    os.close(descriptor)
    try:
        assert keys(folder) == [f"deep/{'d/' * depth}a.png"]
    finally:
        subprocess.run(["rm", "-r", str(folder)], check=True)  # Python 3.11 itself can't


def test_the_size_of_a_file_is_looked_at_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = fill(tmp_path / "photos", {"a.png"})
    with (photos / "film.png").open("wb") as file:
        file.truncate(6_000_000_000)
    opened = []

    def open_and_note(path: str) -> io.BytesIO:
        opened.append(Path(path).name)
        return io.BytesIO(PNGS[0])

    monkeypatch.setattr(FolderSource, "_open", lambda self, path: open_and_note(path))
    items = list(open_source(str(photos)))
    assert [item.problem for item in items] == [
        "",
        "expected at most 10,485,760 bytes, got 6,000,000,000: `ingest load --large-images` allows 268,435,456",
    ]
    assert opened == ["a.png"]


def test_large_images_are_loaded_on_request_and_scaled_down(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", {"a.png"})
    Image.new("L", (14_000, 14_000), 200).save(photos / "fax.png")
    (photos / "scan.bmp").write_bytes(b"BM" + bytes(11_000_000))
    small, fax, scan = open_source(str(photos))
    assert is_image(small)
    with pytest.raises(ImageError, match=r"64,000,000 pixels, .*: `ingest load --large-images` allows 512,000,000$"):
        fax.image()
    assert (
        scan.problem
        == "expected at most 10,485,760 bytes, got 11,000,002: `ingest load --large-images` allows 268,435,456"
    )
    small, fax, scan = open_source(str(photos), large_images=True)
    assert (fax.image().size, fax.image().getpixel((0, 0))) == ((7_000, 7_000), 200)
    with pytest.raises(ImageError, match=r"got 11,000,002 bytes that can't be decoded"):
        scan.image()


def test_a_folder_whose_own_name_is_not_utf8_is_a_source(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    fill(path, {"a.png"})
    source = open_source(str(path))
    assert source.name == "caf\\xe9"
    assert [item.key for item in source] == ["caf\\xe9/a.png"]
    source.place.encode()
    assert [item.key for item in open_source(source.place)] == ["caf\\xe9/a.png"]
    for ending in (".zip", ".tar"):
        archive = pack(Path(f"{path}{ending}"), {"a.png": PNGS[0]})
        assert keys(archive) == keys(open_source(str(archive)).place) == ["caf\\xe9/a.png"]


def test_one_image_is_a_source(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", {"a.PNG", "b.png"})
    source = open_source(str(photos / "a.PNG"))
    assert [item.key for item in source] == ["photos/a.PNG"]
    assert (source.name, source.count) == ("a.PNG", 1)


def test_the_command_names_what_it_left_out(command: Command, store_url: str, tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", {"a.png", "b.png", "c.gif", "notes.txt", unicodedata.normalize("NFD", "é.png")})
    (tmp_path / "labels.csv").write_text("a.png, one\n\u00e9.png, two\nx.png,three\n")
    load = ("ingest", "load", str(photos), "--store", store_url, "--encoder", "seed")
    done = command(*load, "--exclude", "*.GIF", "--labels", str(tmp_path / "labels.csv"))
    assert done.returncode == 0, done.stderr
    assert "photos v1: 3 images added" in done.stdout
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: left out 1 file (not an image format): 'notes.txt'",
        "note: labels for 2 of 3 images; first without: 'photos/b.png'",
        "note: left out 1 of 3 labels of labels.csv: no such image was read",
    ]


def test_a_picture_of_digits_is_read_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(digits.read("train")[0][0]).save(tmp_path / "a.png")
    (item,) = open_source(str(tmp_path / "a.png"))
    assert item.image().size == (28, 28)
