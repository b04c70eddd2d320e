"""How an API server keeps a quantity."""

import math

from sandbox_server.domain import check


def kept(value: str) -> str:
    """A number of bytes as it is kept: rounded up to a thousandth. Others are kept as they are."""
    exact = check.disk.fits(value)
    if not exact or (exact * 1000).denominator == 1:
        return value
    return f"{math.ceil(exact * 1000)}m"
