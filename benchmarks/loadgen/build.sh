#!/bin/sh
# Compiles the load generator, the way examples/go is compiled: build.sh [OUT] (default: ./build).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../../examples/go/build.sh" "${1:-$here/build}" "$here" loadgen
