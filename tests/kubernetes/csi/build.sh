#!/usr/bin/env bash
# Builds the sidecars of CSI, the snapshot controller and csi-sanity unless they are built, and prints the folder that has
# them, the definition of CSI (csi.proto) and those of the custom resources of snapshots (crd). It is kept outside the tree
# under a name that hashes this script and the modules.
set -euo pipefail
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "the sidecars of CSI are built with Go 1.26 or newer: install it and put it on the PATH" >&2; exit 1; }
key=$( (cat build.sh go.mod go.sum; go env GOOS GOARCH) | sha256sum | cut -c1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/sandbox-service/csi-$key
if [ ! -d "$folder" ]; then
    mkdir -p "$folder.$$/crd"
    echo "building the sidecars of CSI: some minutes, once" >&2
    CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$folder.$$" tool >&2
    cp "$(go list -m -f '{{.Dir}}' github.com/container-storage-interface/spec)/csi.proto" "$folder.$$"
    cp "$(go list -m -f '{{.Dir}}' github.com/kubernetes-csi/external-snapshotter/client/v8)"/config/crd/snapshot.* "$folder.$$/crd"
    mv "$folder.$$" "$folder"
fi
echo "$folder"
