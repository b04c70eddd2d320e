"""Which variants of a test `make test` runs: `make test-all` runs all of them."""

from collections.abc import Iterable
from typing import Any

import pytest


def some(values: Iterable[Any], *places: int) -> list[Any]:
    """Leaves to `make test-all` the variants that are not at these places, and all but the first without places."""
    kept = places or (0,)
    return [
        value
        if place in kept
        else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for place, value in enumerate(values)
    ]


BOTH_DATABASES = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
"""Of a test whose variant with PostgreSQL `make test` runs as well."""
