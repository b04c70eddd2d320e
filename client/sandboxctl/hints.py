"""What to do about an error, in the words of the command line."""

import grpc
from sandbox_client import errors

NOT_REACHED = "is the service running at that address? start one with `make run`, or give --server"
_BY_REASON = {
    "UNAUTHENTICATED": "give --token-file, or the token in the environment variable SANDBOX_TOKEN",
    "VOLUME_KEPT": "give --adopt-volume to take it up",
    "VOLUME_DIFFERS": "leave out --storage to take it up as it is",
    "NO_VOLUME_TO_ADOPT": "leave out --adopt-volume",
    "SANDBOX_NOT_FOUND": "`sandboxctl list` shows those there are; -n names another namespace",
}
# What gRPC says of a connection that failed. Its words are no contract: where they change, the last hint is given.
_BY_WORDS = (
    (
        "handshake failed",
        "TLS failed: give --ca-file with the authority of its certificate; without TLS, leave --tls out",
    ),
    ("Socket closed", "what listens there ends the connection: if it speaks TLS, give --tls or --ca-file"),
    ("Connection reset", "what listens there ends the connection: if it speaks TLS, give --tls or --ca-file"),
)


def hint(error: errors.ServiceError) -> str:
    """What to do; empty where the message says it."""
    if error.reason:
        return _BY_REASON.get(error.reason, "")
    if error.code is not grpc.StatusCode.UNAVAILABLE:
        return ""
    return next((told for words, told in _BY_WORDS if words in error.message), NOT_REACHED)
