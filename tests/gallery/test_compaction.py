"""A compaction makes the next version of a gallery from its entries, while the gallery is used."""

import shutil
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gallery import Entry, Gallery, GallerySpec, Query, Store, open_store
from gallery.base import Compaction
from gallery.errors import InvalidCodeError, StoreFullError, StoreLockedError, StoreUnusableError
from gallery.journal import JOURNAL, note_added, read_journal
from gallery.map import MAP
from tests.digits import entries

SPEC = GallerySpec("g", "e", "f" * 64, 8)


def codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def stored(gallery: Gallery) -> dict[str, Entry]:
    found = [entry for batch in gallery.scroll() for entry in batch]
    assert len({entry.key for entry in found}) == len(found) == gallery.count()
    return {entry.key: entry for entry in found}


@pytest.fixture
def edge(store_url: str) -> Store:
    store = open_store(store_url)
    with closing(store.build(SPEC)) as build:
        build.gallery.upsert(entries(codes(300)))
        (build.local_folder / "ledger.sqlite").write_bytes(b"a ledger")
        build.index()
        build.publish()
    return store


def begin(store: Store, live: Gallery) -> Compaction:
    compaction = store.compaction(live)
    assert compaction
    return compaction


def test_changes_made_meanwhile_are_in_the_new_version(edge: Store) -> None:
    live = edge.open("g")
    live.delete(["k0"])
    with closing(begin(edge, live)) as compaction:
        live.upsert(entries(codes(310))[300:])
        live.delete(["k1", "k305"])
        compaction.copy(lambda count: live.delete([f"k{live.count()}"]))
        live.upsert([Entry("k2", codes(1, 1)[0], "changed")])
        compaction.index(lambda: None)
        live.upsert([Entry("late", codes(1, 2)[0])])
        expected = stored(live)
        with closing(compaction.go_live()) as new:
            actual = stored(new)
            assert actual.keys() == expected.keys()
            for key, entry in expected.items():
                np.testing.assert_array_equal(actual[key].code, entry.code)
                assert (actual[key].label, actual[key].thumbnail_png) == (entry.label, entry.thumbnail_png)
            assert new.search(Query(expected["late"].code))[0].key == "late"
            assert new.spec.version == 2
        live.close()
    assert edge.spec("g").count == len(expected)
    assert edge.differences("g") == []
    assert sorted(path.name for path in edge.local_folder("g").parent.glob("v*")) == ["v2"]


def test_what_commands_find_out_meanwhile_comes_along(edge: Store) -> None:
    with closing(edge.open("g")) as live:
        (edge.local_folder("g") / MAP).write_bytes(b"an old map")
        with closing(begin(edge, live)) as compaction:
            (edge.local_folder("g") / MAP).write_bytes(b"a new map")
            compaction.copy(lambda count: None)
            compaction.index(lambda: None)
            compaction.go_live().close()
    assert (edge.local_folder("g") / MAP).read_bytes() == b"a new map"


def test_the_ledger_and_the_journal_come_along(edge: Store) -> None:
    with closing(edge.open("g")) as live:
        live.upsert(entries(codes(310))[300:])
        live.delete(["k1", "k305"])
    compact(edge)
    folder = edge.local_folder("g")
    assert (folder / "ledger.sqlite").read_bytes() == b"a ledger"
    assert edge.modified_by_service("g")
    journal = read_journal(folder)
    assert (journal["k300"], journal["k1"], journal["k305"], len(journal)) == (True, False, False, 11)


def compact(store: Store) -> None:
    live = store.open("g")
    with closing(begin(store, live)) as compaction:
        compaction.copy(lambda count: None)
        compaction.index(lambda: None)
        compaction.go_live().close()
        live.close()


def test_a_gallery_that_no_service_has_changed_stays_unchanged_for_loads(edge: Store) -> None:
    compact(edge)
    assert not edge.modified_by_service("g")
    assert edge.differences("g") == []


def test_changes_count_from_the_compaction_on(edge: Store) -> None:
    with closing(edge.open("g")) as live:
        assert live.changes() == (0, 0)
        live.upsert(entries(codes(310))[300:])
        live.delete(["k1", "k305"])
        assert live.changes() == (10, 2)
    with closing(edge.open("g")) as live:
        assert live.changes() == (10, 2)
    compact(edge)
    with closing(edge.open("g")) as live:
        assert live.changes() == (0, 0)
        live.delete(["k2"])
        assert live.changes() == (0, 1)


def test_an_emptied_gallery_can_be_compacted(edge: Store) -> None:
    with closing(edge.open("g")) as live:
        live.delete([f"k{index}" for index in range(300)])
    compact(edge)
    with closing(edge.open("g")) as live:
        assert (stored(live), live.search(Query(codes(1)[0])), live.spec.version) == ({}, [], 2)


def test_a_compaction_that_ends_early_leaves_the_live_version_and_nothing_else(edge: Store) -> None:
    def end(*_: int) -> None:
        raise KeyboardInterrupt

    with closing(edge.open("g")) as live:
        for stage in range(3):
            compaction = begin(edge, live)
            with pytest.raises(KeyboardInterrupt), closing(compaction):
                compaction.copy(end if stage == 0 else lambda count: None)
                compaction.index(end if stage == 1 else lambda: None)
                end()
            assert len(stored(live)) == 300
            assert sorted(path.name for path in edge.local_folder("g").parent.glob("v*")) == ["v1"]
    assert edge.differences("g") == []


def test_an_error_of_the_copying_process_is_raised_here(edge: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(edge.open("g")) as live:
        unusable = Entry("k", np.full(8, np.nan, np.float32))
        monkeypatch.setattr(live, "scroll", lambda batch_count: iter([[unusable]] * 1000))
        with closing(begin(edge, live)) as compaction, pytest.raises(InvalidCodeError):
            compaction.copy(lambda count: None)
            compaction.index(lambda: None)


@pytest.mark.parametrize("name", ["v2", "v2.part"])
def test_what_a_killed_compaction_has_left_is_removed(edge: Store, name: str) -> None:
    home = edge.local_folder("g").parent
    shutil.copytree(home / "v1", home / name)
    (home / name / "REPLACES").write_text("v1")
    if name == "v2.part":
        (home / "v1" / "REPLACES").write_text("v0")  # v0 is removed already
    edge.open("g").close()
    assert sorted(path.name for path in home.glob("v*")) == ["v1"]
    assert not (home / "v1" / "REPLACES").exists()


def test_the_version_that_a_killed_compaction_has_replaced_is_removed(edge: Store) -> None:
    home = edge.local_folder("g").parent
    shutil.copytree(home / "v1", home / "v2")
    (home / "v2" / "REPLACES").write_text("v1")
    (home / "CURRENT").write_text("v2\n")
    edge.open("g").close()
    assert sorted(path.name for path in home.glob("v*")) == ["v2"]
    assert not (home / "v2" / "REPLACES").exists()
    assert edge.differences("g") == []


def test_a_rebuild_does_not_resume_a_killed_compaction(edge: Store) -> None:
    home = edge.local_folder("g").parent
    shutil.copytree(home / "v1", home / "v2")
    (home / "v2" / "REPLACES").write_text("v1")
    with closing(edge.build(SPEC, rebuild=True)) as build:
        assert build.gallery.count() == 0


def test_a_compaction_and_a_load_wait_for_each_other(edge: Store) -> None:
    with closing(edge.open("g")) as live:
        with closing(edge.build(SPEC, rebuild=True)), pytest.raises(StoreLockedError):
            edge.compaction(live)
        with pytest.raises(StoreUnusableError, match="unfinished or unused version v2: finish its load"):
            edge.compaction(live)
        assert (edge.local_folder("g").parent / "v2").exists()
        edge.clean("g")
        with closing(begin(edge, live)), pytest.raises(StoreLockedError):
            edge.build(SPEC, rebuild=True)


def test_without_space_on_the_disk_nothing_begins(edge: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(edge.local_folder("g"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with closing(edge.open("g")) as live, pytest.raises(StoreFullError, match="the disk is full"):
        edge.compaction(live)
    assert sorted(path.name for path in edge.local_folder("g").parent.glob("v*")) == ["v1"]


def test_other_stores_need_no_compaction(store: Store) -> None:
    if store.url.startswith("edge:"):
        return
    with closing(store.build(SPEC)) as build:
        build.publish()
    with closing(store.open("g")) as live:
        assert store.compaction(live) is None
        assert live.changes() == (0, 0)


def test_a_line_of_the_journal_that_was_cut_short_does_not_hide_the_next_one(tmp_path: Path) -> None:
    note_added(tmp_path, ["k1"])
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'["+", "k2", "k')
    note_added(tmp_path, ["k3"])
    assert read_journal(tmp_path) == {"k1": True, "k3": True}
