#!/usr/bin/env bash
# Builds helm unless it is built, and prints the path of the binary. It is kept outside the tree under a name that hashes
# its sources and flags.
set -euo pipefail
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "helm is built with Go 1.26 or newer: install it and put it on the PATH" >&2; exit 1; }
flags="-s -w"
key=$( (cat go.mod go.sum; echo "$flags"; go env GOOS GOARCH) | sha256sum | cut -c1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/sandbox-service
binary=$folder/helm-$key
if [ ! -x "$binary" ]; then
    mkdir -p "$folder"
    echo "building helm: some minutes, once" >&2
    CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$binary.$$" helm.sh/helm/v4/cmd/helm >&2
    mv "$binary.$$" "$binary"
fi
echo "$binary"
