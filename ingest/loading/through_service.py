"""A source into a gallery that a service has open: the service encodes and stores, and acknowledges each image."""

from collections import deque
from collections.abc import Iterator

from encoder_service.client import Client
from encoder_service.errors import ImageError
from encoder_service.images import from_pixels
from encoder_service.limits import LIMITS
from encoder_service.writer import NewImage
from gallery.errors import LookalikeError
from ingest.loading.ledger import Row, Status
from ingest.loading.pipeline import LoadSummary
from ingest.progress import Stages
from ingest.sources import Source


def load_through_service(client: Client, gallery: str, source: Source, stages: Stages) -> tuple[LoadSummary, list[Row]]:
    """Send a source to a service, which adds what is new or has changed.

    Loading again goes on where it stopped, as the service passes over what it holds unchanged.

    Args:
        client: A connection to the service.
        gallery: A gallery that the service has.
        source: Where the images come from.
        stages: Shows how far it is.

    Returns:
        What the load did, and the rows of the images that were left out, with the reasons.

    Raises:
        LookalikeError: The service or the source failed; what was acknowledged before is stored.
    """
    done, bad = LoadSummary(), list[Row]()
    sent: deque[str] = deque()

    def images() -> Iterator[NewImage]:
        for item in source:
            problem = item.problem
            if item.size > LIMITS.max_image_bytes:
                problem = f"expected at most {LIMITS.max_image_bytes:,} bytes, got {item.size:,}"
            if problem:
                bad.append(Row(item.key, Status.BAD, "", "", problem))
                continue
            try:
                picture = item.content if isinstance(item.content, bytes) else from_pixels(item.content)
            except ImageError as error:
                bad.append(Row(item.key, Status.BAD, "", "", str(error)))
                continue
            sent.append(item.key)
            yield NewImage(item.key, picture, item.label or "")

    with stages.stage("loading", source.count) as advance:
        for answer in client.add(images(), gallery):
            key = sent.popleft()
            if isinstance(answer, LookalikeError):
                bad.append(Row(key, Status.BAD, "", "", str(answer)))
            elif answer:
                done.unchanged += 1
            else:
                done.added += 1
            advance(1, source.count)
    done.rejected = len(bad)
    return done, bad
