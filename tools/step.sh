#!/usr/bin/env bash
# step.sh NAME COMMAND… runs one step of a longer job, so that a reader of the log sees what runs and how long it took:
# a "==> NAME" line with the time since the job began, the command's own output, and a line with the step's result.
# The job's start comes in WEFT_STEP_EPOCH (seconds since 1970); without it the job starts here.
set -uo pipefail

name=$1
shift
begin=$(date +%s)
: "${WEFT_STEP_EPOCH:=$begin}"
export WEFT_STEP_EPOCH

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

printf '==> [%s] %s\n' "$(clock $((begin - WEFT_STEP_EPOCH)))" "$name"
"$@"
code=$?
took=$(clock $(($(date +%s) - begin)))
if [ $code -ne 0 ]; then
  printf '==> FAILED: %s (exit status %d after %s): %s\n' "$name" $code "$took" "$*" >&2
  exit $code
fi
printf '    %s: ok, %s\n' "$name" "$took"
