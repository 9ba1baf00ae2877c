"""Counts in messages: 1 image, 2 images."""


def counted(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless the count is 1: "1 image", "60,000 images".

    Args:
        count: The number of things.
        noun: Their name in the singular. Its plural ends in s, or in ries for a name in ry, such as query.
    """
    if count != 1:
        noun = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{count:,} {noun}"
