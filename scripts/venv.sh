#!/bin/sh
# Make a virtual environment with pip, or say what is missing.
# Usage: scripts/venv.sh PYTHON VENV
#   PYTHON may be empty: then it is the first of these that runs and is new enough.
set -eu
python=$1
venv=$2
here=$(dirname "$0")
candidates="python3.11 python3.12 python3"  # constraints.txt was made on 3.11

# Why an interpreter cannot be used; nothing where it can. A version manager's shim of a version that
# is not active lies on the PATH and only prints what it lacks.
objection() {
    if ! said=$("$1" -V 2>&1); then
        echo "$1 does not run: $said"
    elif ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        echo "$1 is $said, and 3.11 or newer is needed"
    fi
}

if [ -z "$python" ]; then
    for candidate in $candidates; do
        command -v "$candidate" >/dev/null || continue
        why=$(objection "$candidate")
        [ -n "$why" ] || { python=$candidate && break; }
        echo "skipped: $why" | head -n 1 >&2
    done
fi
if [ -z "$python" ]; then
    "$here/apt.sh" "no Python 3.11 or newer was found (set PYTHON=... if it lies elsewhere)" \
        python3 python3-venv
    python=python3
fi
why=$(objection "$python")
if [ -n "$why" ]; then
    echo "$why" >&2
    echo "  fix  name one that runs: make PYTHON=/path/to/python3.11" >&2
    exit 4
fi

works() { [ -x "$venv/bin/python" ] && "$venv/bin/python" -P -m pip --version >/dev/null 2>&1; }
make_it() { "$python" -m venv "$venv" >/dev/null 2>&1 && works; }

works && exit 0
make_it && exit 0
# Debian splits ensurepip off into a package of its own, and venv leaves half an environment behind without it.
rm -rf "$venv"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$here/apt.sh" "$python cannot make a virtual environment (no ensurepip)" "python$version-venv"
"$python" -m venv "$venv"
