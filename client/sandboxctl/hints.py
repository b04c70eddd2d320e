"""What to do about an error, in the words of the command line."""

import grpc
from sandbox_client import errors

from sandboxctl import reach

NOT_REACHED = "is the service running at that address? start one with `make run`, or give --server"
SILENT = "what listens there answers nothing: is it the service? give its address with --server"
_NOT_TRUSTED = "TLS failed: give --ca-file with the authority of its certificate; without TLS, leave --tls out"
_HUNG_UP = "what listens there ends the connection: if it speaks TLS, give --tls or --ca-file"
_BY_REASON = {
    "UNAUTHENTICATED": "give --token-file, or the token in the environment variable SANDBOX_TOKEN",
    "VOLUME_KEPT": "give --adopt-volume to take it up",
    "VOLUME_DIFFERS": "leave out --storage to take it up as it is",
    "NO_VOLUME_TO_ADOPT": "leave out --adopt-volume",
    "SANDBOX_NOT_FOUND": "`sandboxctl list` shows those there are; -n names another namespace",
}
# What gRPC says of a connection that failed. Its words are no contract, and of several addresses that a name has they
# tell of the last: where none of these is in them, the address itself is asked.
_BY_WORDS = (("handshake failed", _NOT_TRUSTED), ("Socket closed", _HUNG_UP), ("Connection reset", _HUNG_UP))


def hint(error: errors.ServiceError, found: reach.Found = reach.Found.NOTHING, secure: bool = False) -> str:
    """What to do; empty where the message says it. `found`: what is at the address, `secure`: it is spoken to by TLS."""
    if error.reason:
        return _BY_REASON.get(error.reason, "")
    if error.code is not grpc.StatusCode.UNAVAILABLE:
        return ""
    said = next((told for words, told in _BY_WORDS if words in error.message), "")
    if said or found is reach.Found.NOTHING:
        return said or NOT_REACHED
    if found is reach.Found.SILENT:
        return SILENT
    if secure and found is not reach.Found.UNKNOWN:
        return _NOT_TRUSTED
    return _HUNG_UP if found is reach.Found.TLS else NOT_REACHED
