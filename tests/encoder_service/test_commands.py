"""The command `encoder-service`."""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from encoder_service import cli, terminal
from encoder_service.client import Client
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.searcher import Key, Searcher, SearchRequest
from gallery import Entry, open_store
from gallery.errors import KeyNotFoundError
from tests.commands import BIN, Command
from tests.digits import build, png


@pytest.fixture(scope="module")
def store_url(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"edge:{tmp_path_factory.mktemp('store')}"
    build(open_store(url), encoder)
    return url


@contextmanager
def serving(store_url: str, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    service = subprocess.Popen(
        [BIN / "encoder-service", "serve", "--port", "0", "--store", store_url, *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert service.stdout is not None
        line = service.stdout.readline()
        assert line.startswith("serving on 127.0.0.1:")
        yield service, line.split()[-1]
    finally:
        service.kill()
        service.communicate()


def test_a_file_is_searched_without_a_service(
    command_process: Command, store_url: str, tmp_path: Path, queries: list[Image.Image]
) -> None:
    (tmp_path / "query.png").write_bytes(png(queries[0]))
    done = command_process("encoder-service", "search", str(tmp_path / "query.png"), "--json", "--store", store_url)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert set(answer) == {
        *("gallery", "version", "encoder", "encode_ms", "search_ms", "hits"),
        *("reconstruction_error", "query_percentile", "prepared", "expanded_count"),
    }
    assert (answer["gallery"], answer["version"], answer["encoder"]) == ("digits", 1, "seed")
    assert len(answer["hits"]) == 5
    assert set(answer["hits"][0]) == {"key", "label", "distance", "distance_percentile", "relation"}


def test_stdin_is_searched_and_hits_are_printed_as_a_table(
    command: Command, store_url: str, queries: list[Image.Image]
) -> None:
    done = command("encoder-service", "search", "-", "--limit", "3", "--store", store_url, stdin=png(queries[0]))
    assert done.returncode == 0
    assert done.stdout.count("digits/train/") == 3
    assert "distance" in done.stdout
    assert "No close match" not in done.stdout
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8))
    done = command("encoder-service", "search", "-", "--store", store_url, stdin=png(noise))
    assert "No close match" in done.stdout


def test_an_inverted_digit_is_prepared_and_the_table_says_so(
    command: Command, store_url: str, queries: list[Image.Image]
) -> None:
    def answer(picture: Image.Image, *options: str) -> str:
        done = command("encoder-service", "search", "-", "--store", store_url, *options, stdin=png(picture))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def keys(output: str) -> list[str]:
        return [hit["key"] for hit in json.loads(output)["hits"]]

    inverted = ImageOps.invert(queries[0])
    assert "prepared: inverted" in answer(inverted)
    assert "prepared" not in answer(inverted, "--as-is")
    assert "prepared" not in answer(queries[0])
    prepared = answer(inverted, "--json")
    assert json.loads(prepared)["prepared"] == "inverted"
    assert keys(prepared) == keys(answer(queries[0], "--json"))
    assert keys(prepared) != keys(answer(inverted, "--json", "--as-is"))


def test_an_expanded_search_says_so(command: Command, store_url: str, queries: list[Image.Image]) -> None:
    def answer(*options: str) -> str:
        done = command("encoder-service", "search", "-", "--store", store_url, *options, stdin=png(queries[0]))
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert "expanded with its 4 nearest: ranked by the mean, distances are to the query\n" in answer("--expand", "4")
    assert "expanded" not in answer()
    assert json.loads(answer("--expand", "4", "--json"))["expanded_count"] == 4
    assert json.loads(answer("--json"))["expanded_count"] == 0


# Runs the command as a user whose id is in no list of users, which takes the right to change the id.
NO_HOME = """
import pwd
def nobody(uid):
    raise KeyError(uid)
pwd.getpwuid = nobody
from encoder_service.cli import main
main()
"""

NAMES = ["cat [final].png", "[/b]", "[link=http://x]y", "a\x1b[31mb", "line\nend", "ünï 日本", "[bold", "\u202egnp.exe"]


def test_names_and_labels_are_neither_markup_nor_control_characters(
    command: Command, tmp_path: Path, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    url = f"edge:{tmp_path / 'store'}"
    spec = build(open_store(url), load_encoder("seed"), count=1)
    with closing(open_store(url).open(spec.name)) as gallery:
        code = load_encoder("seed").encode_images([queries[0]])[0]
        gallery.upsert([Entry(name, code, name, "", png(queries[0])) for name in NAMES])
    query = tmp_path / "q[" / "x] [red].png"
    query.parent.mkdir()
    query.write_bytes(png(queries[0]))
    arguments = ("search", str(query), "--store", url, "--limit", "20", "--out", str(tmp_path / "s.png"))
    done = command("encoder-service", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"lookslike{query}".replace(" ", "") in "".join(done.stdout.split())
    for name in NAMES:
        assert done.stdout.count(terminal.printable(name)) >= 2, name
    assert not set(done.stdout) & {"\x1b", "\u202e"}
    assert "No close match" not in done.stdout
    missing = command("encoder-service", "search", "\x1b[31m" + "é" * 900, "--store", url)
    assert missing.returncode == 4
    assert "\x1b" not in missing.stderr
    assert missing.stderr.count("\n") == 1
    assert len(missing.stderr.encode()) < 1000


@pytest.mark.parametrize("content", [b"", b"caf\xe9", b"one two", b"\xff\xfea\0b\0", b"a\0b", "töken".encode()])
def test_a_file_that_holds_no_token_is_named(command: Command, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    done = command("encoder-service", "search", "x", "--address", "127.0.0.1:1", "--token-file", str(file))
    assert (done.returncode, done.stderr) == (
        3,
        f"error: --token-file {file}: expected one token of ASCII letters, digits and symbols, got other text\n",
    )


@pytest.mark.parametrize("store", ["edge:FOLDER", "edge:~/galleries", ""])
def test_no_home_folder_is_needed_unless_it_is_the_store(tmp_path: Path, store: str) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("HOME", "XDG", "LOOKALIKE"))
    }
    if store:
        environment["LOOKALIKE_STORE"] = store.replace("FOLDER", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", NO_HOME, "search", "x"], env=environment, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    if store == "edge:FOLDER":
        assert (done.returncode, "no galleries" in done.stderr or "no gallery" in done.stderr) == (4, True)
    else:
        assert (done.returncode, "expected a home folder, got none: set HOME" in done.stderr) == (3, True)


@pytest.mark.parametrize(("ending", "format_name"), [(".png", "PNG"), (".JPG", "JPEG"), ("", "PNG")])
def test_a_stored_key_is_searched_and_drawn(
    command: Command, store_url: str, tmp_path: Path, ending: str, format_name: str
) -> None:
    sheet = tmp_path / f"sheet{ending}"
    arguments = ("digits/train/5", "--out", str(sheet), "--json", "--store", store_url)
    done = command("encoder-service", "search", *arguments)
    assert done.returncode == 0
    assert "digits/train/5" not in [hit["key"] for hit in json.loads(done.stdout)["hits"]]
    drawn = Image.open(sheet)
    assert drawn.format == format_name
    assert drawn.width > 6 * 100
    assert len(np.unique(np.asarray(drawn.convert("L")))) > 50


def test_an_image_of_a_dataset_is_searched_though_no_gallery_holds_it(command: Command, store_url: str) -> None:
    done = command("encoder-service", "search", "mnist/test/7", "--json", "--store", store_url)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["hits"]) == 5


def test_a_plugin_turns_a_query_into_an_image(
    store_url: str, queries: list[Image.Image], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Plugin:
        def load(self) -> Callable[[str], Image.Image | None]:
            return lambda query: queries[int(query[5:])] if query.startswith("mine/") else None

    installed = [*importlib.metadata.entry_points(group=cli.IMAGES_GROUP), Plugin()]
    monkeypatch.setattr(cli, "entry_points", lambda group: installed if group == "lookalike.images" else [])
    (expected, answered) = [], []
    for index in range(3):
        cli.app(["search", f"mine/{index}", "--json", "--store", store_url], standalone_mode=False)
        answered.append([hit["key"] for hit in json.loads(capsys.readouterr().out)["hits"]])
        with closing(open_store(store_url).open("digits")) as gallery:
            result = Searcher(load_encoder("seed"), gallery).search(SearchRequest(queries[index]))
        expected.append([hit.key for hit in result.hits])
    assert answered == expected
    with pytest.raises(KeyNotFoundError, match="'yours/0' is not a file"):
        cli.app(["search", "yours/0", "--json", "--store", store_url], standalone_mode=False)


@pytest.mark.parametrize("option", ["--gallery", "--name"])
def test_a_gallery_is_named_by_its_option_or_the_former_one(command: Command, store_url: str, option: str) -> None:
    done = command("encoder-service", "search", "digits/train/5", option, "digits", "--json", "--store", store_url)
    assert json.loads(done.stdout)["gallery"] == "digits"


@pytest.mark.parametrize("is_served", [False, True])
def test_a_missing_key_and_a_missing_gallery_are_told_apart(command: Command, store_url: str, is_served: bool) -> None:
    with serving(store_url) if is_served else nullcontext((None, "")) as (_, address):
        where = ("--address", address) if is_served else ("--store", store_url)
        no_key = command("encoder-service", "search", "digits/train/400", *where)
        no_gallery = command("encoder-service", "search", "digits/train/0", "--gallery", "none", *where)
    assert (no_key.returncode, no_gallery.returncode) == (4, 4)
    assert "'digits/train/400' is not a file, an image of a dataset or the key of a stored image" in no_key.stderr
    assert "no image 'digits/train/400' in gallery 'digits'" in no_key.stderr
    assert "no gallery 'none'" in no_gallery.stderr
    assert "is not a file" not in no_gallery.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("no such file.png",), 4, "'no such file.png' is not a file, an image of a dataset or the key of a stored"),
        (("-",), 3, "expected the bytes of an image file, got none"),
        (("x" * 300,), 4, "is not a file, an image of a dataset or the key of a stored image"),
        (
            ("digits/train/0", "--json", "--out", "/no/such/folder/sheet.png"),
            3,
            "--out /no/such/folder/sheet.png can't be",
        ),
        (
            ("digits/train/0", "--out", "sheet.txt"),
            3,
            "--out sheet.txt: expected a name that ends in .png",
        ),
        (("mnist/test/7", "--gallery", "none"), 4, "no gallery 'none'"),
        (("mnist/test/7", "--encoder", "none"), 4, "no encoder 'none'"),
        (("mnist/test/7", "--limit", "1001"), 2, "'--limit': Input should be less than or equal to 1000"),
        (("mnist/test/7", "--expand", "9"), 2, "'--expand': Input should be less than or equal to 8"),
        (("digits/train/0", "--expand", "4"), 3, "expand: expected an image or a code, got the key 'digits/train/0'"),
        (("digits/train/0", "--address", "127.0.0.1:1"), 5, "start it with `encoder-service serve`"),
        (("digits/train/0", "--address", "127.0.0.1"), 3, "service '127.0.0.1': expected HOST:PORT"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    command: Command, store_url: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    done = command("encoder-service", "search", *arguments, "--store", store_url)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    if code != 2:
        assert done.stderr.count("\n") == 1


def test_a_running_service_is_asked_by_address_and_locks_the_gallery(command_process: Command, store_url: str) -> None:
    with serving(store_url) as (service, address):
        assert command_process("encoder-service", "health", "--address", address).stdout == "ready\n"
        asked = command_process("encoder-service", "search", "digits/train/0", "--address", address, "--json")
        assert asked.returncode == 0, asked.stderr
        locked = command_process("encoder-service", "search", "digits/train/0", "--store", store_url)
        assert locked.returncode == 5
        assert f"in use by process {service.pid} (encoder-service serve)" in locked.stderr
    embedded = command_process("encoder-service", "search", "digits/train/0", "--store", store_url, "--json")
    stopped = command_process("encoder-service", "health", "--address", address)
    assert (stopped.returncode, stopped.stderr.count("\n")) == (5, 1)
    served_hits, embedded_hits = (
        [(hit["key"], hit["distance"]) for hit in json.loads(done.stdout)["hits"]] for done in (asked, embedded)
    )
    assert served_hits == embedded_hits


def test_the_serving_process_never_loads_tensorflow(store_url: str, queries: list[Image.Image]) -> None:
    with serving(store_url) as (service, address), Client(address) as client:
        client.search(png(queries[0]))
        mapped = Path(f"/proc/{service.pid}/maps").read_text()
    assert "ai_edge_litert" in mapped
    assert "site-packages/tensorflow/" not in mapped


def test_sigterm_finishes_the_calls_in_flight_and_exits_0(store_url: str) -> None:
    large = png(Image.linear_gradient("L").resize((7900, 7900)).convert("RGB"))
    with serving(store_url, "--drain-s", "60") as (service, address), Client(address) as client:
        client.search(Key("digits/train/0"))
        results: list[object] = []
        call = threading.Thread(target=lambda: results.append(client.search(large)))
        call.start()
        # an image of 62 megapixels takes long enough to decode for the signal to arrive meanwhile
        call.join(0.15)
        assert call.is_alive()
        service.send_signal(signal.SIGTERM)
        call.join(60)
        assert len(results) == 1
        assert service.wait(20) == 0


def test_a_store_that_is_a_file_stops_the_service_at_once(command_process: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command_process("encoder-service", "serve", "--port", "0", "--store", f"edge:{tmp_path / 'file'}")
    assert done.returncode == 5
    assert done.stderr == (
        f"error: store edge:{tmp_path / 'file'}: expected a folder, and this is a file: name another with --store\n"
    )
