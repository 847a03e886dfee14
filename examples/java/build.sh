#!/bin/sh
# Generates the client stubs and compiles the Java example against Debian's packages: no Maven, no download.
#
#   build.sh [OUT]    (default: ./build)
#
# It leaves OUT/caller, a script that starts the program.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
protos=$here/../../protos
mkdir -p "${1:-$here/build}"
out=$(cd "${1:-$here/build}" && pwd)

jars=/usr/share/java
classpath=
for jar in grpc-api grpc-context grpc-core grpc-netty grpc-protobuf grpc-protobuf-lite grpc-stub protobuf guava \
    jctools-core perfmark-api geronimo-annotation-1.3-spec netty-buffer netty-codec netty-codec-http \
    netty-codec-http2 netty-common netty-handler netty-handler-proxy netty-codec-socks netty-resolver \
    netty-transport netty-transport-native-epoll netty-transport-native-unix-common; do
    test -e "$jars/$jar.jar" || { echo "$jars/$jar.jar is missing: see install-toolchains.sh" >&2; exit 1; }
    classpath=$classpath$jars/$jar.jar:
done

rm -rf "$out/stubs" "$out/classes"
mkdir -p "$out/stubs" "$out/classes"
protoc --proto_path="$protos" --proto_path="$here/.." \
    --plugin=protoc-gen-grpc-java="$(command -v grpc_java_plugin)" \
    --java_out="$out/stubs" --grpc-java_out="$out/stubs" \
    "$protos"/waypost/v1/types.proto "$protos"/waypost/v1/router.proto "$here"/../status_details.proto
find "$out/stubs" -name '*.java' >"$out/sources"
javac -nowarn -proc:none -d "$out/classes" -cp "$classpath" "@$out/sources"
javac -Xlint:all,-processing,-classfile -Werror -proc:none -d "$out/classes" -cp "$out/classes:$classpath" "$here/Caller.java"

cat >"$out/caller" <<EOF
#!/bin/sh
exec java -cp "$out/classes:$classpath" Caller "\$@"
EOF
chmod +x "$out/caller"
echo "$out/caller"
