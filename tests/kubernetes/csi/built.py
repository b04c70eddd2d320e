"""What `build.sh` builds: the programs, and the messages and stubs of CSI."""

import functools
import sys
from pathlib import Path
from typing import Any

import grpc

from tests.kubernetes import builds


@functools.cache
def build() -> Path:
    """The folder of the binaries, built when needed. Raises RuntimeError with what is missing."""
    return builds.built(Path(__file__).parent / "build.sh", "what CSI consists of")


def generated() -> tuple[Any, Any]:
    """The messages and the stubs of csi.proto."""
    sys.path.append(str(build()))
    try:
        return grpc.protos_and_services("csi.proto")
    finally:
        sys.path.remove(str(build()))
