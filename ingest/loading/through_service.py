"""Loading through a running service, which encodes, stores and acknowledges each image."""

from collections import deque
from collections.abc import Iterator

from encoder_service.client import Client
from encoder_service.errors import ImageError
from encoder_service.images import from_pixels
from encoder_service.limits import LIMITS
from encoder_service.writer import NewImage
from gallery.errors import LookalikeError
from ingest.loading.batches import LoadSummary
from ingest.loading.keys import with_service_keys
from ingest.loading.ledger import Row
from ingest.progress import Stages
from ingest.sources import Source


def load_through_service(client: Client, gallery: str, source: Source, stages: Stages) -> tuple[LoadSummary, list[Row]]:
    """Send a source to a service, which stores the images that are new or have changed.

    The same call resumes an interrupted load, because the service skips images that it already has.

    Args:
        client: A connection to the service.
        gallery: Name of a gallery of the service.
        source: The images.
        stages: Displays the progress.

    Returns:
        The summary of the load, and the rows of the bad images.

    Raises:
        LookalikeError: The service or the source failed. All images that the service acknowledged are stored.
    """
    client.gallery(gallery)  # raises an error if the service has no such gallery
    source = with_service_keys(source, client, gallery, stages.say)
    summary, bad = LoadSummary(), list[Row]()
    sent_keys: deque[str] = deque()

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
            yield NewImage(item.key, picture, item.label or "")

    with stages.stage("loading", source.count) as advance:
        for answer in client.add(images(), gallery):
            key = sent_keys.popleft()
            if isinstance(answer, LookalikeError):
                bad.append(Row.bad(key, str(answer)))
            elif answer:
                summary.unchanged += 1
            else:
                summary.added += 1
            advance(1, source.count)
    summary.rejected = len(bad)
    summary.notes = list(source.notes)
    return summary, bad
