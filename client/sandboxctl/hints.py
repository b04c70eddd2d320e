"""What a user of the command line can do about an error."""

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
    "CLASS_NOT_EXPANDABLE": "ask for no more than `sandboxctl describe` shows as the size of its disk",
    "NO_VOLUME_TO_ADOPT": "leave out --adopt-volume",
    "SANDBOX_NOT_FOUND": "`sandboxctl list` shows those there are; -n names another namespace",
    "SANDBOX_NOT_RUNNING": "`sandboxctl start` starts it, and `sandboxctl describe` says why it does not run",
    "EXEC_NOT_FOUND": "`sandboxctl execs` shows those there are",
}
# Parts of gRPC's messages about failed connections. The messages are no contract, and report only the last of several
# addresses of a name. Without any of these parts, what `reach.look` finds at the address decides.
_BY_WORDS = (("handshake failed", _NOT_TRUSTED), ("Socket closed", _HUNG_UP), ("Connection reset", _HUNG_UP))


def hint(error: errors.ServiceError, found: reach.Found = reach.Found.NOTHING, secure: bool = False) -> str:
    """Returns what to do, or an empty text if the error's message says it.

    `found` is what `reach.look` found at the address; `secure` is whether the command uses TLS.
    """
    if error.reason:
        return _BY_REASON.get(error.reason, "")
    if error.code is not grpc.StatusCode.UNAVAILABLE:
        return ""
    for words, by_words in _BY_WORDS:
        if words in error.message:
            return by_words
    if found is reach.Found.NOTHING:
        return NOT_REACHED
    if found is reach.Found.SILENT:
        return SILENT
    if secure and found is not reach.Found.UNKNOWN:
        return _NOT_TRUSTED
    return _HUNG_UP if found is reach.Found.TLS else NOT_REACHED
