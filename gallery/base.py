"""What every gallery can do, whatever keeps its codes."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from gallery.types import Entry, GallerySpec, Hit, Query


class Gallery(Protocol):
    """One version of a gallery, open. Safe to search from several threads at once."""

    @property
    def spec(self) -> GallerySpec:
        """What the gallery is; its count is the one recorded when it was last built."""
        ...

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Store entries, replacing those of the same keys. On return they are kept, even if the process dies.

        Raises:
            InvalidCodeError: A code has NaN, infinity or a wrong size; then none is stored.
        """
        ...

    def search(self, query: Query) -> list[Hit]:
        """Return the nearest entries, nearest first; of equal distances, any order.

        Raises:
            InvalidCodeError: The query's code has NaN, infinity or a wrong size.
        """
        ...

    def search_batch(self, queries: Sequence[Query]) -> list[list[Hit]]:
        """Return the hits of each query, in the same order. Errors as for `search`."""
        ...

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        """Return the entry of each key, in the same order; None where there is none."""
        ...

    def scroll(self, batch_count: int = 1000) -> Iterator[list[Entry]]:
        """Yield all entries in batches of at most `batch_count`, in no order that means anything."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove the entries of these keys; keys that are not there are no error."""
        ...

    def count(self) -> int:
        """Count the entries, exactly."""
        ...

    def close(self) -> None:
        """Let go of files and connections. The gallery can't be used any more; closing twice is fine."""
        ...
