#!/usr/bin/env bash
# usage: audited.sh JOBS [arguments of pytest]
# All tests of `make test` with one audit log on in every Python process, and a witness of what the
# stores commit (tests/audited_run); then the log is compared with that. Folder: $AUDITED, else a new one.
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=$1
shift
folder=${AUDITED:-$(mktemp -d)}
export WITNESS_LOG="$folder/audit.log" WITNESS_FILE="$folder/witness"
export STRONGROOM_AUDIT="$WITNESS_LOG"
python=$(command -v python)
run() {
    # sitecustomize of this folder is what brings the witness into each process.
    PYTHONPATH="$PWD/tests/audited_run" "$python" -m pytest -p audited --no-skips "$@"
}
status=0
run -m "not alone and not sweep" -n "$jobs" --dist loadfile "$@" || status=$?
run -m "alone and not sweep" "$@" || status=$?
unset STRONGROOM_AUDIT WITNESS_FILE
"$python" tests/audited_run/check_log.py "$WITNESS_LOG" "$folder/witness" || status=1
echo "the log and what the witness saw are in $folder"
exit "$status"
