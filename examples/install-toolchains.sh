#!/bin/sh
# Installs what the Node, Go and Java examples and the load generator are built with, on Debian 12, as root.
# (Python's needs come with the project itself.)
set -eu
here=$(cd "$(dirname "$0")" && pwd)

packages="
    nodejs
    golang-go protobuf-compiler protoc-gen-go protoc-gen-go-grpc
    golang-google-grpc-dev golang-google-protobuf-dev golang-google-genproto-dev
    golang-github-golang-protobuf-1-5-dev
    default-jdk-headless protobuf-compiler-grpc-java-plugin
    libgrpc-java libprotobuf-java libnetty-java libguava-java libperfmark-java libjctools-java
    libgeronimo-annotation-1.3-spec-java
"
# Some distributions of Node bring npm with them, and then refuse Debian's.
command -v npm >/dev/null || packages="$packages npm"

export DEBIAN_FRONTEND=noninteractive
apt-get update
# shellcheck disable=SC2086 # one word per package is the point
apt-get install --yes --no-install-recommends $packages

cd "$here/node"
npm ci --ignore-scripts --no-audit --no-fund
