"""Index a gallery anew from its stored codes, in this process or in a service that has it open."""

from contextlib import ExitStack, closing

from encoder_service.client import Client
from encoder_service.compactor import Stage
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


def compact_through_service(client: Client, name: str, stages: Stages) -> GallerySpec | None:
    """Make a service compact a gallery, and wait until the new version is live.

    Args:
        client: A connection to the service.
        name: Name of a gallery of the service.
        stages: Displays the progress.

    Returns:
        The description of the new version; None if the store itself keeps its index up to date.

    Raises:
        LookalikeError: The service can't be reached, or could not compact the gallery.
    """
    states = client.compact(name)
    state, copied = next(states), 0
    with stages.stage("copying", state.spec.count) as advance:
        while state.stage is Stage.COPYING:
            if state.copied > copied:
                advance(state.copied - copied)
                copied = state.copied
            state = next(states)
    if state.stage is Stage.INDEXING:
        with stages.stage("indexing", None):
            while state.stage is Stage.INDEXING:
                state = next(states)
    return state.spec if state.stage is Stage.DONE else None
