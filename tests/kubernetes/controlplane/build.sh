#!/usr/bin/env bash
# Builds the control plane of a Kubernetes release (RELEASE, 1.36 unless said) unless it is built, and prints the path of
# the binary. It is kept outside the tree under a name that hashes its sources and flags.
set -euo pipefail
cd "$(dirname "$0")"
command -v go >/dev/null || { echo "the control plane is built with Go 1.26 or newer: install it and put it on the PATH" >&2; exit 1; }
release=${RELEASE:-1.36}
modules=go.mod
[ "$release" = 1.36 ] || modules=go-$release.mod
[ -f "$modules" ] || { echo "there is no control plane of the release $release here, only:" go*.mod >&2; exit 1; }
version=$(go mod edit -json "$modules" | sed -n '/"k8s.io\/kubernetes"/{n;s/.*"\(v.*\)".*/\1/p;q}')
prefix=k8s.io/component-base/version
flags="-s -w -X $prefix.gitVersion=$version -X $prefix.gitMajor=1 -X $prefix.gitMinor=${release#1.}"
tags=
case $release in 1.34 | 1.35) tags=before_1_36 ;; esac
key=$( (cat "$modules" "${modules%.mod}.sum" *.go; echo "$flags"; go env GOOS GOARCH) | sha256sum | cut -c1-16)
folder=${XDG_CACHE_HOME:-$HOME/.cache}/sandbox-service
binary=$folder/controlplane-$key
if [ ! -x "$binary" ]; then
    mkdir -p "$folder"
    echo "building the control plane: some minutes, once" >&2
    CGO_ENABLED=0 go build -modfile="$modules" -trimpath -tags "$tags" -ldflags "$flags" -o "$binary.$$" . >&2
    mv "$binary.$$" "$binary"
fi
echo "$binary"
