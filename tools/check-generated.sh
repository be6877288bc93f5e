#!/usr/bin/env bash
# Fails when `make generate` changes any file of the tree, whether or not it is committed: generated code is out of date.
set -euo pipefail
cd "$(dirname "$0")/.."

# One "hash  path" line for each tracked or new, not ignored file that exists.
snapshot() {
  git ls-files -z --cached --others --exclude-standard | sort -zu |
    while IFS= read -r -d '' f; do [ -f "$f" ] && printf '%s\0' "$f"; done | xargs -0 sha256sum
}

before=$(mktemp)
after=$(mktemp)
trap 'rm -f "$before" "$after"' EXIT

snapshot >"$before"
tools/generate.sh
snapshot >"$after"
if ! changed=$(diff "$before" "$after"); then
  echo "generated files were out of date; they have been regenerated, commit them:" >&2
  awk '/^[<>]/{print "  " $3}' <<<"$changed" | sort -u >&2
  exit 1
fi
echo "generated files are current"
