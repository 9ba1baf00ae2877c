"""Estimates of `ingest plan`."""

import json

import pytest

from gallery.errors import InvalidInputError
from gallery.profiles import PROFILES
from ingest.plan import amount, fitting_profile, plan
from tests.commands import Command

GB = 1e9


@pytest.mark.parametrize(
    ("text", "value"),
    [("60000", 6e4), ("60,000", 6e4), ("100M", 1e8), ("1.5b", 1.5e9), ("16GB", 16e9), ("512 MB", 512e6)],
)
def test_amounts_are_read_as_people_write_them(text: str, value: float) -> None:
    assert amount(text, "--images") == value


@pytest.mark.parametrize("text", ["", "many", "-5", "0", "1X", "nan", "1e9"])
def test_a_text_that_is_not_an_amount_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"--images .*: expected a number of 1 or more, such as"):
        amount(text, "--images")


@pytest.mark.parametrize("profile", PROFILES)
def test_ten_times_the_images_take_ten_times_the_disk_and_slightly_more_than_ten_times_the_indexing(
    profile: str,
) -> None:
    small, large = (plan(images, profile, 1000 * GB, 1, 1) for images in (1e7, 1e8))
    assert large.disk_bytes == pytest.approx(10 * small.disk_bytes)
    assert large.load_s == pytest.approx(10 * small.load_s)
    assert 10 < large.index_s / small.index_s < 15
    assert plan(1e8, profile, 64 * GB, 1, 1).index_s > 1.2 * large.index_s  # not enough memory to build it at once


def test_profiles_that_leave_more_on_disk_take_less_memory() -> None:
    memory, balanced, disk, inline = (plan(1e8, name, 64 * GB, None, 1) for name in PROFILES)
    assert memory.ram_bytes > balanced.ram_bytes * 0.9 > 2 * disk.ram_bytes > 4 * inline.ram_bytes


@pytest.mark.parametrize(("memory", "profile"), [(4, "balanced"), (1, "disk"), (0.5, "inline"), (0.001, "inline")])
def test_the_profile_for_a_node_follows_from_its_memory(memory: float, profile: str) -> None:
    assert fitting_profile(4e6, memory * GB) == profile
    assert plan(4e6, "balanced", 64 * GB, None, 1).single_node_profile == "balanced"


def test_the_nodes_have_the_memory_for_every_replica() -> None:
    once, twice = (plan(1e9, "balanced", 16 * GB, None, replicas) for replicas in (1, 2))
    assert once.ram_bytes <= once.nodes * 16 * GB
    assert 2 * once.nodes - 1 <= twice.nodes <= 2 * once.nodes + 1
    assert plan(1000, "disk", 16 * GB, None, 3).nodes == 3
    with pytest.raises(InvalidInputError, match="--nodes 2: expected at least 3, the number of replicas"):
        plan(1000, "disk", 16 * GB, 2, 3)


def test_a_node_too_small_for_the_server_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"--ram 1\.0 MB: expected more than"):
        plan(1000, "disk", 1e6, None, 1)


def test_less_memory_builds_more_segments_which_need_less() -> None:
    whole, parted = (plan(4e6, "disk", ram, 1, 1) for ram in (16 * GB, 0.5 * GB))
    assert (whole.segments, whole.build_bytes) == (1, parted.build_bytes)
    assert whole.build_bytes < 2.5 * GB < 4 * 4e6 * 512
    assert 3 < parted.segments < 8
    assert plan(1e6, "disk", 0.1 * GB, 1, 1).segments > 3


def test_the_plan_is_printed_with_its_formula(command: Command) -> None:
    printed = command("ingest", "plan", "--images", "100M", "--profile", "disk", "--ram", "16GB")
    assert printed.returncode == 0, printed.stderr
    for line in (
        "nodes   ",
        "RAM     ",
        "disk    ",
        "load    ",
        "index   ",
        "build   ",
        "RAM   = images × replicas × (",
    ):
        assert f"\n{line}" in printed.stdout
    as_json = json.loads(command("ingest", "plan", "--images", "100M", "--json").stdout)
    assert as_json["nodes"] >= 1
    few = command("ingest", "plan", "--images", "1B", "--nodes", "1")
    assert (few.returncode, "note: too little memory" in few.stderr) == (0, True)
    small = command("ingest", "plan", "--images", "4M", "--ram", "512MB").stdout
    assert "With --profile inline, a single node of 512MB can serve all images." in small
    refused = command("ingest", "plan", "--images", "lots")
    assert (refused.returncode, refused.stderr.count("\n")) == (3, 1)
