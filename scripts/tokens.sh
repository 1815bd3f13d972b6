#!/usr/bin/env bash
# Builds what the tests of HSMs need, into target/tokens: the token kryoptic (about a minute of CPU
# the first time) and the shim of tests/shim. Does nothing when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target/tokens
# Tests run in several processes.
exec 9>target/tokens/.lock
flock 9

cargo build --release --locked --quiet --manifest-path tests/kryoptic/Cargo.toml \
    --target-dir target/kryoptic
cp -u target/kryoptic/release/libkryoptic_pkcs11.so target/tokens/

shim=target/tokens/shim.so
if [ ! -e $shim ] || [ tests/shim/shim.c -nt $shim ]; then
    gcc -std=gnu11 -O1 -Wall -Wextra -Werror -shared -fPIC -I/usr/include/p11-kit-1 \
        -o $shim.new tests/shim/shim.c -ldl
    mv $shim.new $shim
fi
