"""IDX, the file format of MNIST: a magic number, big-endian sizes, bytes.

The format is described at the end of http://yann.lecun.com/exdb/mnist/.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from ingest.errors import SourceError

_UNSIGNED_BYTES = 0x08


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes.

    Args:
        content: The file, not compressed.
        name: What to call it in an error.

    Returns:
        An array of the shape that the file tells, such as (60000, 28, 28).

    Raises:
        SourceError: It is no such file, or cut off.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTES:
        raise SourceError(f"{name}: expected an IDX file of unsigned bytes, got one that begins {content[:4].hex()}")
    rank = content[3]
    if len(content) < 4 + 4 * rank:
        raise SourceError(f"{name}: expected {rank} sizes, and the file ends before")
    shape = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    expected = int(np.prod(shape, dtype=np.int64))
    if len(content) - 4 - 4 * rank != expected:
        raise SourceError(f"{name}: expected {expected:,} bytes of {shape}, got {len(content) - 4 - 4 * rank:,}")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)
