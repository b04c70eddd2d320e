"""The `sandboxctl` command, built on `sandbox_client`."""

import os

# Keeps gRPC's own lines about connections out of the output. gRPC reads the variable when it is imported, so that it is
# set before the other modules of this package are.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
