#!/bin/bash
# The Python suite over an extension that is compiled for AddressSanitizer.
#
#     scripts/asan.sh [PYTEST ARGUMENTS]
#
# Needs the nightly toolchain (-Zsanitizer) and gcc's libasan, which is preloaded: python itself is
# not compiled for it. The build (target/asan) and the package it is put in stay out of the sources.
# First a read past the end that is planted in this build must be found, or nothing would be.
# Left out: tests that count on the layout, the memory or the limits of the whole process, those of valgrind,
# of the benches and of tokens, those that preload libfaketime, which hangs with libasan at the start, and those
# that fork, by a server with a library of their own too: gcc's libasan does not hold its allocator's locks over
# a fork, so that a child hangs in malloc if a thread of the pool was in it.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
target=x86_64-unknown-linux-gnu
package=target/asan/package
runtime=$(gcc -print-file-name=libasan.so)
[ -e "$runtime" ] || { echo "no libasan: install gcc's" >&2; exit 1; }

# The path of the interpreter is for pyo3's build script.
PYO3_PYTHON=$(readlink -f "$python") RUSTFLAGS="-Zsanitizer=address --cfg strongroom_asan" \
    cargo +nightly build --locked --profile fast --target "$target" --target-dir target/asan \
    -p strongroom-python --features pyo3/extension-module

rm -rf "$package"
mkdir -p "$package"
cp -R python/strongroom "$package/"
rm -f "$package"/strongroom/_native*.so
cp "target/asan/$target/fast/lib_native.so" "$package/strongroom/_native.abi3.so"

# Leaks: what the interpreter keeps to its end is none of ours. Signals stay the tests' own.
# Limits of time in the tests are this many times longer.
export STRONGROOM_TEST_SLOWER=20
export ASAN_OPTIONS=detect_leaks=0:malloc_context_size=5:handle_segv=0:handle_abort=0:allocator_may_return_null=1
run() { LD_PRELOAD="$runtime" PYTHONPATH="$PWD/$package" PYTHONMALLOC=malloc "$python" "$@"; }

run -c 'import strongroom._native as n; assert "target/asan" in n.__file__, n.__file__'
if report=$(run -c 'from strongroom._native import _planted_overrun; _planted_overrun(32)' 2>&1); then
    echo "the planted overrun was not found" >&2
    exit 1
fi
grep -q "heap-buffer-overflow" <<<"$report" || { echo "$report" >&2; exit 1; }
echo "planted overrun: found"

if [ $# -gt 0 ]; then
    run -m pytest -q -p no:cacheprovider "$@"
    exit
fi
status=0
tests() {
    run -m pytest -q -p no:cacheprovider tests "$@" --ignore tests/test_constant_time.py \
        --ignore tests/test_packaging.py --ignore-glob='tests/test_memory_*' \
        --ignore tests/test_bench.py --ignore-glob='tests/test_hsm*' \
        --ignore tests/test_database_faults.py --ignore tests/test_database_power.py \
        --ignore tests/test_keystore_clock.py \
        -k "not memory_of_a_refusal and not fork and not child and not inherited and not multiprocessing" ||
        status=$?
}
tests -m "not sweep and not alone" -n "${TEST_JOBS:-3}" --dist loadfile
tests -m "alone and not sweep"
exit "$status"
