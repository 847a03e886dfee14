#!/bin/sh
# Generates the client stubs and compiles a Go program against Debian's packages: no module, no download.
#
#   build.sh [OUT [SOURCE NAME]]
#
# OUT takes the stubs and the binary (default: ./build). SOURCE is the program's folder (default: this one),
# NAME what to call it (default: caller).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
protos=$here/../../protos
mkdir -p "${1:-$here/build}"
out=$(cd "${1:-$here/build}" && pwd)
source=${2:-$here}
name=${3:-caller}

# Debian's gRPC takes either version; the generated stubs only work with the newer one.
if [ -e /usr/share/gocode/src/github.com/golang/protobuf/proto/table_marshal.go ]; then
    echo "golang-github-golang-protobuf-1-5-dev is needed in place of ...-1-3-dev: see install-toolchains.sh" >&2
    exit 1
fi

# The stubs land where `import "example.com/waypost/v1"` (the contract's go_package) finds them.
mkdir -p "$out/gopath/src"
protoc --proto_path="$protos" --go_out="$out/gopath/src" --go-grpc_out="$out/gopath/src" \
    "$protos"/waypost/v1/types.proto "$protos"/waypost/v1/router.proto

cd "$source"
GO111MODULE=off GOFLAGS= GOPATH="$out/gopath:/usr/share/gocode" go build -o "$out/$name" .
echo "$out/$name"
