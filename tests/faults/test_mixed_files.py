"""A folder of files, a twentieth of which are not images or are damaged."""

import json
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from gallery import open_store
from tests import digits
from tests.commands import Command


def bomb() -> bytes:
    """Return a PNG of a few bytes whose header claims 2.5 billion pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(50_000))
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_good_images_are_loaded_and_bad_ones_are_named(
    command: Command, store_url: str, tmp_path: Path, count: int
) -> None:
    folder = mixed(tmp_path / "mixed", count)
    bad = count // 20
    done = command("ingest", "load", str(folder), "--encoder", "seed", "--store", store_url, "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["added"], summary["rejected"], summary["count"]) == (count - bad, bad, count - bad)
    lines = (open_store(store_url).local_folder("mixed") / "rejected.jsonl").read_text().splitlines()
    assert {json.loads(line)["key"] for line in lines} == {
        f"mixed/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.bad.png")
    }
    reasons = " ".join(json.loads(line)["reason"] for line in lines)
    for reason in ("got none", "expected at most 64,000,000 pixels", "got 25 bytes that can't be decoded"):
        assert reason in reasons


def mixed(folder: Path, count: int) -> Path:
    """Write a folder of images, a twentieth of which are bad: cut, empty, of too many pixels, or no image."""
    images = digits.read("train")[0]
    good = [digits.png(Image.fromarray(pixels)) for pixels in images]
    bad = [good[0][:90], b"", bomb(), b"<html>not an image</html>"]
    chance = random.Random(4)
    is_bad = set(chance.sample(range(count), count // 20))
    for index in range(count):
        path = folder / f"{index % 100:02}" / f"{index}.{chance.choice(('png', 'jpg', 'PNG'))}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if index in is_bad:
            path.with_suffix(".bad.png").write_bytes(bad[index % len(bad)])
        else:
            path.write_bytes(good[index % len(good)])
    return folder
