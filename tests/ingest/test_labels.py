"""Labels from folders, from files and from the files beside images."""

import codecs
import json
import unicodedata
import zipfile
from pathlib import Path

import pytest

from ingest.errors import SourceError
from ingest.sources import open_source
from tests.ingest.test_archives import PNGS, pack
from tests.ingest.test_folders import fill


def three(folder: Path) -> Path:
    return fill(folder / "photos", {"000.png", "001.png", "002.png"})


def test_labels_come_from_folders(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", {"cats/black/000.png", "top.png"})
    source = open_source(str(photos), label_from_folders=True)
    assert {item.key: item.label for item in source} == {"photos/top.png": "", "photos/cats/black/000.png": "black"}
    assert source.notes == ["labels for 1 of 2 images; first without: 'photos/top.png'"]


def test_labels_come_from_folders_with_backslashes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as packed:
        for name in ("dog\\1.png", "cat\\big\\2.png"):
            member = zipfile.ZipInfo("x")
            member.filename = name
            packed.writestr(member, PNGS[0])
    source = open_source(str(tmp_path / "p.zip"), label_from_folders=True)
    assert {item.key: item.label for item in source} == {"p/dog\\1.png": "dog", "p/cat\\big\\2.png": "big"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "file,label\n000.png,zero\n./001.png,one\n"),
        ("labels.csv", "000.png,zero\n001.png,one\n"),
        ("labels.csv", 'score,class,name\n0.5,zero,000.png\n0.1,"one",photos/001.png\n'),
        ("labels.csv", "000.png, zero\n001.png,  one \n"),
        ("labels.csv", "file_name;label\n000.png;zero\n001.png;one\n"),
        ("labels.csv", "000.png;zero\r\n001.png;one\r\n"),
        ("labels.tsv", "000.png\tzero\n001.png\tone\n"),
        ("labels.txt", "000.png zero\n001.png one\n"),
        ("labels.csv", "photos\\000.png,zero\n.\\001.png,one\n"),
        ("labels.jsonl", '{"file": "000.png", "label": "zero"}\n\n{"key": "photos/001.png", "label": "one"}\n'),
        (
            "metadata.jsonl",
            '{"file_name": "000.png", "label": "zero"}\n{"file_name": "001.png", "label": "one"}\n'
            '{"file_name": "002.png", "label": null}\n',
        ),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_labels_come_from_a_file(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    photos = three(tmp_path)
    (photos / name).write_bytes(content.encode(encoding))
    labels = [item.label for item in open_source(str(photos), labels=photos / name)]
    assert labels == ["zero", "one", ""]


def test_labels_with_quoted_commas_keep_them(tmp_path: Path) -> None:
    photos = three(tmp_path)
    (tmp_path / "labels.csv").write_text('000.png, "cat, big"\n"001.png","dog"\n')
    assert [item.label for item in open_source(str(photos), labels=tmp_path / "labels.csv")] == ["cat, big", "dog", ""]


@pytest.mark.parametrize(("of_file", "of_line"), [("NFD", "NFC"), ("NFC", "NFD")])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_letters_with_accents_match_in_either_form(tmp_path: Path, of_file: str, of_line: str, encoding: str) -> None:
    if (encoding, of_line) == ("latin-1", "NFD"):
        return  # Latin-1 has no accents of their own
    photos = fill(tmp_path / "photos", {unicodedata.normalize(of_file, "Ünï/é.png")})  # type: ignore[arg-type]
    line = unicodedata.normalize(of_line, "Ünï/é.png,Ärger\n")  # type: ignore[arg-type]
    (tmp_path / "labels.csv").write_bytes(line.encode(encoding))
    (item,) = open_source(str(photos), labels=tmp_path / "labels.csv")
    assert unicodedata.normalize("NFC", item.label or "") == "Ärger"


def test_what_matches_and_what_does_not_is_said(tmp_path: Path) -> None:
    photos = three(tmp_path)
    (tmp_path / "labels.csv").write_text("000.png,a\n002.png,c\n7.png,x\n8.png,y\n")
    source = open_source(str(photos), labels=tmp_path / "labels.csv")
    list(source)
    expected = [
        "labels for 2 of 3 images; first without: 'photos/001.png'",
        "left out 2 of 4 labels of labels.csv: no such image was read",
    ]
    assert source.notes == expected
    list(source)
    assert source.notes == expected


def test_labels_for_other_files_are_refused(tmp_path: Path) -> None:
    photos = three(tmp_path)
    (tmp_path / "labels.csv").write_text("other/000.png,zero\n")
    with pytest.raises(SourceError, match=r"labels labels.csv: expected paths in photos such as '002.png'"):
        list(open_source(str(photos), labels=tmp_path / "labels.csv"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("labels.csv", b"file,label\n000.png\n", "line 2: expected a file and its label, got '000.png'"),
        ("labels.csv", b"", "got no line"),
        ("labels.csv", codecs.BOM_UTF16_LE + b"a", "expected a CSV or JSONL file of text"),
        ("labels.csv", b"\x81\xff\x90", "expected a CSV or JSONL file of text"),
        ("labels.jsonl", b'{"file": "000.png"}', "line 1: expected {"),
        ("labels.jsonl", b'{"file": "000.png", "label": null}', "got no line"),
        ("none.csv", None, "No such file"),
    ],
)
def test_a_damaged_file_of_labels_is_refused(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    photos = three(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"labels .*{says}"):
        open_source(str(photos), labels=tmp_path / name)


def sample(name: str, label: str, as_json: bool) -> dict[str, bytes]:
    """Return a sample of WebDataset: an image, its caption, and its label as .cls or as .json."""
    row = {"caption": "a bird", "width": 28} | ({"label": label} if as_json else {})
    files = {f"{name}.jpg": PNGS[0], f"{name}.json": json.dumps(row).encode(), f"{name}.txt": b"a bird"}
    return files if as_json else {f"{name}.cls": label.encode(), **files}


@pytest.mark.parametrize("ending", ["", ".zip", ".tar"])
@pytest.mark.parametrize("as_json", [False, True])
def test_files_beside_an_image_label_it(tmp_path: Path, ending: str, as_json: bool) -> None:
    files: dict[str, bytes] = {}
    for number in range(9):
        files |= sample(f"{number:03}", f"c{number}", as_json)
    files |= {"100.left.png": PNGS[1], "100.right.png": PNGS[2], "100.cls": b"both\n", "200.png": PNGS[3]}
    path = tmp_path / f"p{ending}"
    if ending:
        pack(path, files)
    else:
        path.mkdir()
        for name, content in files.items():
            (path / name).write_bytes(content)
    source = open_source(str(path))
    labels = {item.key: item.label for item in source}
    assert labels == {f"p/{number:03}.jpg": f"c{number}" for number in range(9)} | {
        "p/100.left.png": "both",
        "p/100.right.png": "both",
        "p/200.png": None,
    }
    assert source.count == 12
    (tmp_path / "labels.csv").write_text("000.jpg,mine\n")
    assert next(iter(open_source(str(path), labels=tmp_path / "labels.csv"))).label == "mine"


def test_label_files_of_a_zip_may_be_anywhere_and_those_of_a_tar_are_next_to_their_images(tmp_path: Path) -> None:
    files = {"1.jpg": PNGS[0], "2.jpg": PNGS[1], "1.cls": b"one", "2.cls": b"two"}
    for ending in (".zip", ".tar"):
        pack(tmp_path / f"p{ending}", files)
    assert {item.key: item.label for item in open_source(str(tmp_path / "p.zip"))} == {
        "p/1.jpg": "one",
        "p/2.jpg": "two",
    }
    source = open_source(str(tmp_path / "p.tar"))
    assert [item.label for item in source] == [None, None]
    assert source.notes == ["left out 2 label files (no image of its name next to it), such as '1.cls'"]
