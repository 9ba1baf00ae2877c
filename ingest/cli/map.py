"""The command `ingest map`."""

from contextlib import closing

from encoder_service.terminal import StoreOption
from gallery import DEFAULT_STORE, open_store
from gallery.errors import InvalidInputError
from gallery.map import write_map
from gallery.plurals import counted
from ingest.cli.galleries import GalleryArgument


def make_map(gallery: GalleryArgument, store: StoreOption = DEFAULT_STORE) -> None:
    """Make a map of a gallery, which the search page shows.

    Lays the codes out in the plane, so that similar images are close together. The map is kept with the gallery's
    version. A rebuilt gallery has none until this command runs again.
    """
    try:
        import openTSNE  # noqa: F401 (imported to find out whether it is installed)
    except ImportError as error:
        raise InvalidInputError(
            "a map needs openTSNE, which is not installed: pip install '.[train]' in a clone of Lookalike"
        ) from error
    from ingest.map import lay_out
    from ingest.progress import Stages

    galleries = open_store(store)
    with closing(galleries.open_for_reading(gallery)) as opened_gallery, Stages() as stages:
        content = lay_out(opened_gallery, stages)
    # the version that is live now: a service may have compacted the gallery meanwhile
    spec = galleries.spec(gallery)
    write_map(galleries.local_folder(gallery), content.to_bytes())
    print(f"{spec.name} v{spec.version}: a map of {counted(len(content.keys), 'image')}: the search page shows it")
