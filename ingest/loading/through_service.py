"""Loading through a running service, which encodes, stores and acknowledges each image."""

from collections import deque
from collections.abc import Iterator

from encoder_service.client import Client
from encoder_service.errors import ImageError, KeyTakenError
from encoder_service.images import from_pixels
from encoder_service.limits import LIMITS
from encoder_service.writer import NewImage
from gallery.errors import LookalikeError
from gallery.plurals import counted
from ingest.loading.batches import LoadSummary
from ingest.loading.keys import with_service_keys
from ingest.loading.ledger import Row
from ingest.progress import Stages
from ingest.sources import Source


def load_through_service(
    client: Client, gallery: str, source: Source, stages: Stages, *, replace: bool = False
) -> tuple[LoadSummary, list[Row]]:
    """Send a source to a service, which stores the images that are new or have changed.

    The same call resumes an interrupted load, because the service skips images that it already has. A service does not
    know the paths of sources, so a stored image with the same key and other content may belong to another source. It is
    kept, unless `replace` is True.

    Args:
        client: A connection to the service.
        gallery: Name of a gallery of the service.
        source: The images.
        stages: Displays the progress.
        replace: Replace images that the gallery has with other content under the same keys.

    Returns:
        The summary of the load, and the rows of the bad images.

    Raises:
        LookalikeError: The service or the source failed. All images that the service acknowledged are stored.
    """
    client.gallery(gallery)  # raises an error if the service has no such gallery
    source = with_service_keys(source, client, gallery, stages.say)
    summary, bad = LoadSummary(), list[Row]()
    sent_keys: deque[str] = deque()
    first_held = ""

    def images() -> Iterator[NewImage]:
        for item in source:
            problem = item.problem
            if item.size > LIMITS.max_image_bytes:
                problem = f"expected at most {LIMITS.max_image_bytes:,} bytes, got {item.size:,}"
            if problem:
                bad.append(Row.bad(item.key, problem))
                continue
            try:
                picture = item.content if isinstance(item.content, bytes) else from_pixels(item.content)
            except ImageError as error:
                bad.append(Row.bad(item.key, str(error)))
                continue
            sent_keys.append(item.key)
            yield NewImage(item.key, picture, item.label, keep_stored=not replace)

    with stages.stage("loading", source.count) as advance:
        for answer in client.add(images(), gallery):
            key = sent_keys.popleft()
            if isinstance(answer, KeyTakenError):
                first_held = first_held or key
                summary.held += 1
            elif isinstance(answer, LookalikeError):
                bad.append(Row.bad(key, str(answer)))
            elif answer:
                summary.unchanged += 1
            else:
                summary.added += 1
            advance(1, source.count)
    summary.rejected = len(bad)
    summary.notes = list(source.notes)
    if summary.held:
        summary.notes.append(
            f"the gallery has other images under the keys of {counted(summary.held, 'image')} (first: {first_held!r}): "
            "if they are this source's, replace them with --replace"
        )
    return summary, bad
