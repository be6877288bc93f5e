#!/usr/bin/env bash
# Checks that the .proto files stay compatible with the revision they came from: where this branch left main, or main's
# previous commit when this is main. Says so and succeeds when there is no such revision (a first commit, a shallow clone).
set -euo pipefail
cd "$(dirname "$0")/.."

skip() { echo "buf breaking: skipped: $1"; exit 0; }

head=$(git rev-parse -q --verify 'HEAD^{commit}') || skip "no commit yet"
main=$(git rev-parse -q --verify 'origin/main^{commit}' || git rev-parse -q --verify 'main^{commit}') || skip "no branch main"
base=$(git merge-base "$head" "$main") || skip "HEAD and main share no commit here (a shallow clone?)"
if [ "$base" = "$head" ]; then
  base=$(git rev-parse -q --verify 'HEAD~1^{commit}') || skip "HEAD has no parent here (the first commit, or a shallow clone)"
fi
git cat-file -e "$base:buf.yaml" 2>/dev/null || skip "$base has no buf.yaml"
[ -n "$(git ls-tree -r --name-only "$base" proto | grep '\.proto$' | head -1)" ] || skip "$base has no .proto files"

against=$(mktemp -d)
trap 'rm -rf "$against"' EXIT
git archive "$base" buf.yaml proto | tar -x -C "$against"
.cache/tools/buf breaking --against "$against"
echo "buf breaking: compatible with $(git log -1 --format='%h %s' "$base")"
