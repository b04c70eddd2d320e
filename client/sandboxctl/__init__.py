"""The `sandboxctl` command, made of `sandbox_client`."""

import os

# gRPC writes its own lines about each handshake and lost connection, which the command tells in its own words. It reads
# this when it is imported, so it is set before anything else here is.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
