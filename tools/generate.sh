#!/usr/bin/env bash
# Generates all generated files of the tree in place: Go code from proto/**.proto, then every `go generate` directive.
# Run through `make generate`, which builds the generators first.
set -euo pipefail
cd "$(dirname "$0")/.."

buf=.cache/tools/buf
protos=$(find proto -name '*.proto' 2>/dev/null | head -1)
if [ -n "$protos" ]; then
  "$buf" generate
else
  echo "generate: no .proto files yet"
fi

# protoc plugins leave the output of a renamed or deleted .proto behind.
find proto -name '*.pb.go' 2>/dev/null | while read -r f; do
  base=${f%.pb.go}
  [ -e "${base%_grpc}.proto" ] || [ -e "$base.proto" ] || { echo "generate: removing $f, its .proto is gone"; rm "$f"; }
done

go generate ./...
