#!/usr/bin/env bash
# Makes .venv with what the Makefile's targets need, and installs the missing Debian packages of
# scripts/debian-packages.txt where that is possible (root, apt-get). Does nothing when all is there.
#
# Usage: scripts/bootstrap.sh [VENV [EXTRA...]]    default: .venv test dev; EXTRA as in requirements.py
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv}
shift || true
[ $# -gt 0 ] || set -- test dev

die() { echo "bootstrap: $*" >&2; exit 1; }

install_debian() {
    command -v apt-get >/dev/null && command -v dpkg-query >/dev/null || return 0
    local name missing=()
    while read -r name _; do
        case $name in '' | '#'*) continue ;; esac
        # shellcheck disable=SC2016  # the format is dpkg's, not the shell's
        dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q 'install ok installed' ||
            missing+=("$name")
    done <scripts/debian-packages.txt
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "bootstrap: not root, so these Debian packages stay missing: ${missing[*]}" >&2
        return 0
    fi
    echo "bootstrap: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update
    apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null
}

find_python() {
    # The base executable, since the first python3 on PATH may be the one of the environment itself.
    local candidate program='
import sys
if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
    sys.exit(1)
print(getattr(sys, "_base_executable", None) or sys.executable)'
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11; do
        ! "$candidate" -c "$program" 2>/dev/null || return 0
    done
    die "no CPython 3.11 or later on PATH; set PYTHON"
}

command -v cargo >/dev/null || die "no cargo on PATH: install Rust (https://rustup.rs), 1.89 or later"
install_debian

python=$(find_python)
version=$("$python" -c 'import sys; print(sys.version)')
stamp=$( (echo "$version $*"; cat pyproject.toml scripts/requirements.py) | sha256sum | cut -c1-64)
[ "$(cat "$venv/.stamp" 2>/dev/null || true)" != "$stamp" ] || exit 0

echo "bootstrap: $venv ($*) from $("$python" --version)"
# A virtual environment of another interpreter can't be turned into this one's.
if [ -d "$venv" ] && [ "$("$venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null)" != "$version" ]; then
    rm -rf "$venv"
fi
[ -d "$venv" ] || "$python" -m venv "$venv" || die "$python -m venv failed (Debian: apt install python3-venv)"
"$venv/bin/pip" install -q --disable-pip-version-check -U pip
"$venv/bin/python" scripts/requirements.py "$@" >"$venv/requirements.txt"
"$venv/bin/pip" install -q --disable-pip-version-check -r "$venv/requirements.txt"
echo "$stamp" >"$venv/.stamp"
