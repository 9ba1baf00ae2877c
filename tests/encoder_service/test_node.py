"""The example for Node, if Node and npm are installed and npm can fetch its packages."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from encoder_service.rpc.server import Server
from tests.digits import png

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node and npm")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with its packages, beside a copy of the protos."""
    root = tmp_path_factory.mktemp("node")
    shutil.copytree(ROOT / "protos", root / "protos")
    shutil.copytree(
        ROOT / "examples" / "node", root / "examples" / "node", ignore=shutil.ignore_patterns("node_modules")
    )
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent"]
    installed = subprocess.run(install, cwd=root / "examples" / "node", capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"npm can't fetch the packages: {installed.stderr[-200:]}")
    return root / "examples" / "node"


def node(example: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["node", "search.js", *arguments]
    return subprocess.run(command, cwd=example, capture_output=True, text=True, timeout=60, check=False)


def test_the_example_searches_adds_and_shows_errors(
    example: Path, server: Server, queries: list[Image.Image], tmp_path: Path
) -> None:
    (tmp_path / "query.png").write_bytes(png(queries[0]))
    searched = node(example, server.address, "digits", str(tmp_path / "query.png"))
    assert searched.returncode == 0, searched.stderr
    hits = json.loads(searched.stdout)
    assert [hit["key"].startswith("digits/train/") for hit in hits] == [True] * 5
    assert sorted(hit["distance"] for hit in hits) == [hit["distance"] for hit in hits]
    added = json.loads(
        node(example, server.address, "digits", str(tmp_path / "query.png"), "--add", "from/node").stdout
    )
    assert added[0]["key"] == "from/node"
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    refused = node(example, server.address, "digits", str(tmp_path / "rubbish"))
    assert (refused.returncode, refused.stderr.startswith("INVALID_ARGUMENT: image: expected")) == (1, True)
