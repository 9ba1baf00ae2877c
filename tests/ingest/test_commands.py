"""The `ingest` command, on MNIST."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.commands import BIN, Command

LOAD = ("load", "mnist", "--limit", "2000")
LOAD_FEW = ("load", "mnist", "--limit", "300")


def listed(command: Command, store_url: str) -> list[dict[str, object]]:
    done = command("ingest", "list", "--json", "--store", store_url)
    assert done.returncode == 0, done.stderr
    galleries: list[dict[str, object]] = json.loads(done.stdout)
    return galleries


def test_load_list_search_drop(command_process: Command, store_url: str) -> None:
    loaded = command_process("ingest", *LOAD, "--store", store_url, "--json")
    assert loaded.returncode == 0, loaded.stderr
    summary = json.loads(loaded.stdout)
    assert (summary["added"], summary["unchanged"], summary["count"]) == (2000, 0, 2000)
    assert set(summary["seconds"]) == {"read", "prepare", "encode", "store", "index", "verify", "total"}
    for stage in ("loading", "indexing", "verifying"):
        assert f"{stage}: " in loaded.stderr

    (gallery,) = listed(command_process, store_url)
    assert set(gallery) == {"name", "version", "count", "encoder", "fingerprint", "profile", "store", "sources"}
    assert (gallery["name"], gallery["version"], gallery["count"]) == ("mnist", 1, 2000)
    assert (gallery["encoder"], gallery["store"]) == ("mnist", store_url)

    found = command_process("encoder-service", "search", "mnist/train/1", "--json", "--store", store_url)
    assert [hit["label"] for hit in json.loads(found.stdout)["hits"]].count("0") >= 3

    assert command_process("ingest", "drop", "mnist", "--yes", "--store", store_url).returncode == 0
    assert listed(command_process, store_url) == []


def test_loading_again_changes_nothing(command: Command, store_url: str) -> None:
    command("ingest", *LOAD_FEW, "--store", store_url)
    before = listed(command, store_url)
    again = command("ingest", *LOAD_FEW, "--store", store_url)
    assert "0 images added, 300 unchanged" in again.stdout
    assert listed(command, store_url) == before


def test_a_load_names_the_profile_for_the_memory(
    command: Command, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "profile" not in command("ingest", *LOAD_FEW, "--store", store_url).stderr
    monkeypatch.setattr("gallery.memory.available_memory", lambda: 30_000_000)
    again = ("ingest", *LOAD_FEW, "--rebuild", "--store", store_url)
    assert "with profile balanced takes 36.1 MB of memory, and 30.0 MB is available" in command(*again).stderr
    assert "profile" not in command(*again, "--profile", "inline").stderr


def test_loading_more_adds_only_what_is_new(command: Command, store_url: str) -> None:
    command("ingest", "load", "mnist", "--limit", "200", "--store", store_url)
    more = command("ingest", *LOAD_FEW, "--store", store_url)
    assert "mnist v1: 100 images added, 200 unchanged" in more.stdout


def test_a_rebuild_makes_the_next_version(command: Command, store_url: str) -> None:
    command("ingest", *LOAD_FEW, "--store", store_url)
    command("ingest", "load", "mnist", "--limit", "200", "--rebuild", "--store", store_url)
    (gallery,) = listed(command, store_url)
    assert (gallery["version"], gallery["count"]) == (2, 200)


def test_gallery_and_split(command: Command, store_url: str) -> None:
    load = ("load", "mnist", "--split", "test", "--limit", "2000", "--gallery", "mine")
    loaded = command("ingest", *load, "--store", store_url, "--json")
    assert (json.loads(loaded.stdout)["name"], json.loads(loaded.stdout)["count"]) == ("mine", 2000)
    # as in the article's experiment: a test image against others
    found = command("encoder-service", "search", "mnist/test/7", "--json", "--store", store_url)
    hits = json.loads(found.stdout)["hits"]
    assert "mnist/test/7" not in [hit["key"] for hit in hits]
    assert [hit["label"] for hit in hits].count("9") >= 3


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("load", "minst"), 4, "no source 'minst': expected one of mnist, fashion-mnist, or the path of a folder"),
        (("load", "mnist", "--split", "half"), 3, "split 'half'"),
        (("load", "mnist/test", "--split", "train"), 3, "expected one of --split train and mnist/test"),
        (("load", "tests", "--split", "test"), 3, "--split test: expected it with a dataset, got tests"),
        (("load", "mnist", "--label-from", "folder"), 3, "mnist has labels of its own"),
        (("load", "mnist", "--name", "Not/A/Name"), 3, "gallery name 'Not/A/Name'"),
        (("load", "mnist", "--encoder", "none"), 4, "no encoder 'none'"),
        (("load", "mnist", "--limit", "0"), 2, "--limit"),
        (("drop", "none", "--yes"), 4, "no gallery 'none'"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    command: Command, store_url: str, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = command("ingest", *arguments, "--store", store_url)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert listed(command, store_url) == []


def test_evaluate_prints_figures_and_writes_a_report(command: Command, store_url: str, tmp_path: Path) -> None:
    command("ingest", *LOAD, "--store", store_url)
    report = tmp_path / "report.html"
    common = ("evaluate", "mnist", "--sample", "200", "--store", store_url, "--json")
    done = command("ingest", *common, "--queries", "mnist/test", "--out", str(report))
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert {"precision_at_1", "precision_at_5", "map_at_5", "index_recall_at_5"} <= set(figures)
    assert (figures["query_count"], figures["gallery_count"], figures["encoder"]) == (200, 2000, "mnist")
    assert figures["precision_at_1"] > 0.9
    assert figures["index_recall_at_5"] == figures["recall_at_5"] > 0.99
    assert report.read_text().count("data:image/png;base64") == 10
    own = json.loads(command("ingest", "evaluate", "mnist", "--sample", "2000", "--store", store_url, "--json").stdout)
    assert 0.8 < own["precision_at_1"] < 1  # a query that answered itself would always be right


def test_dropping_without_a_terminal_to_ask_on_needs_yes(command: Command, store_url: str) -> None:
    command("ingest", "load", "mnist", "--limit", "10", "--store", store_url)
    done = command("ingest", "drop", "mnist", "--store", store_url)
    assert done.returncode == 2
    assert done.stderr == "error: to remove gallery 'mnist' with 10 images without a terminal to ask on, add --yes\n"
    assert len(listed(command, store_url)) == 1


def test_a_store_that_is_a_file(command_process: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = command_process("ingest", *LOAD, "--store", f"edge:{tmp_path / 'file'}")
    assert done.returncode == 5
    assert done.stderr.count("\n") == 1
    assert "expected a folder, and this is a file" in done.stderr


def load_in_background(store_url: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [BIN / "ingest", "load", "mnist", "--store", store_url, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_lock(store_url: str) -> None:
    lock = Path(store_url.removeprefix("edge:")) / "mnist" / "v1" / "OPEN"
    deadline = time.monotonic() + 60
    while not (lock.exists() and lock.stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_second_of_two_concurrent_loads_names_the_process_that_has_the_gallery(
    command: Command, store_url: str
) -> None:
    first = load_in_background(store_url, "--limit", "500")
    wait_for_lock(store_url)
    first.send_signal(signal.SIGSTOP)  # so that it can't end before the second one has begun
    second = command("ingest", *LOAD, "--store", store_url)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 5
    assert f"gallery 'mnist' is in use by process {first.pid} (ingest load)" in second.stderr
    first.communicate(timeout=120)
    assert first.returncode == 0
    assert [gallery["count"] for gallery in listed(command, store_url)] == [500]


@pytest.mark.parametrize(
    ("delay_s", "limit"),
    [
        pytest.param(0.0, 20_000, marks=pytest.mark.slow),
        (0.4, 8000),
        pytest.param(1.5, 20_000, marks=pytest.mark.slow),
    ],
)
def test_after_a_kill_the_same_load_completes_the_gallery(
    command: Command, store_url: str, delay_s: float, limit: int
) -> None:
    killed = load_in_background(store_url, "--limit", str(limit))
    wait_for_lock(store_url)
    time.sleep(delay_s)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert listed(command, store_url) == []
    again = command("ingest", "load", "mnist", "--limit", str(limit), "--store", store_url, "--json")
    assert again.returncode == 0, again.stderr
    summary = json.loads(again.stdout)
    assert summary["added"] + summary["unchanged"] == limit
    assert [gallery["count"] for gallery in listed(command, store_url)] == [limit]


def test_too_little_memory_is_one_line(command: Command, store_url: str) -> None:
    for how, reason in (
        (
            ("load", "mnist", "--memory", "100MB"),
            "--memory: expected at least 256 MB to build a gallery in, got 100 MB",
        ),
        (("load", "mnist", "--memory", "much"), "--memory 'much': expected a number"),
        (("load", "mnist", "--memory", "1GB", "--service", "127.0.0.1:1"), "expected one of --service and --memory"),
        (
            ("load", "mnist", "--encoder", "seed", "--service", "h:1"),
            "expected one of --service and --encoder",
        ),
    ):
        rejected = command("ingest", *how, "--store", store_url)
        assert (rejected.returncode, rejected.stderr.count("\n")) == (3, 1)
        assert reason in rejected.stderr
    assert not listed(command, store_url)
