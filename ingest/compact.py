"""Index a gallery anew from its stored codes, without a service."""

from contextlib import ExitStack, closing

from gallery import GallerySpec, Store
from ingest.progress import Stages


def compact(store: Store, name: str, stages: Stages) -> GallerySpec | None:
    """Copy a gallery's entries into a new version, index it, make it live and remove the old version.

    Args:
        store: The store that has the gallery.
        name: Name of the gallery.
        stages: Displays the progress.

    Returns:
        The description of the new version; None if the store itself keeps its index up to date.

    Raises:
        GalleryNotFoundError: No gallery has this name.
        StoreLockedError: Another process has the gallery open or is building it.
        StoreError: The new version can't be made. The live version stays as it is.
    """
    with ExitStack() as stack:
        live = stack.enter_context(closing(store.open(name)))
        compaction = store.compaction(live)
        if compaction is None:
            return None
        stack.enter_context(closing(compaction))
        stack.callback(live.close)  # first, so that the compaction can remove the old version
        with stages.stage("copying", live.count()) as advance:
            compaction.copy(advance)
        with stages.stage("indexing", None):
            compaction.index(lambda: None)
        with closing(compaction.go_live()) as new:
            return new.spec
