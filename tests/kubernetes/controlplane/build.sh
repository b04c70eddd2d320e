#!/usr/bin/env bash
# Builds the control plane unless it is built, and prints the path of the binary. It is kept outside the tree under a
# name that hashes its sources and flags.
set -euo pipefail
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "the control plane is built with Go 1.26 or newer: install it and put it on the PATH" >&2; exit 1; }
version=v1.36.3
prefix=k8s.io/component-base/version
flags="-s -w -X $prefix.gitVersion=$version -X $prefix.gitMajor=1 -X $prefix.gitMinor=36"
key=$( (cat go.mod go.sum main.go; echo "$flags"; go env GOOS GOARCH) | sha256sum | cut -c1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/sandbox-service
binary=$folder/controlplane-$key
if [ ! -x "$binary" ]; then
    mkdir -p "$folder"
    echo "building the control plane: some minutes, once" >&2
    CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$binary.$$" . >&2
    mv "$binary.$$" "$binary"
fi
echo "$binary"
