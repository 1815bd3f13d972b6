#!/usr/bin/env bash
# Runs each fuzz target of rust/fuzz for some seconds, from its seeds and what earlier runs found.
#
# Usage: scripts/fuzz.sh [SECONDS [TARGET...]]    default: 150 seconds, all targets
#
# Needs a nightly toolchain (rustup toolchain install nightly) and installs cargo-fuzz. An input that
# breaks a target is left in rust/fuzz/artifacts/TARGET; cargo-fuzz prints how to run it again.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-150}
shift || true

cargo +nightly --version >/dev/null 2>&1 || {
    echo "fuzz: no nightly toolchain: rustup toolchain install nightly" >&2
    exit 1
}
cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz

fuzz() { cargo +nightly fuzz "$1" --fuzz-dir rust/fuzz "${@:2}"; }

names=$(fuzz list)
[ $# -gt 0 ] || mapfile -t targets <<<"$names"
[ $# -eq 0 ] || targets=("$@")
fuzz build
for target in "${targets[@]}"; do
    corpus=rust/fuzz/corpus/$target
    mkdir -p "$corpus"
    echo "fuzz: $target, $seconds s"
    fuzz run "$target" "$corpus" "rust/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1
done
echo "fuzz: ${#targets[@]} targets, $seconds s each, nothing found"
