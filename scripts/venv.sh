#!/bin/sh
# Make a virtual environment with pip, or say what is missing.
# Usage: scripts/venv.sh PYTHON VENV
set -eu
python=$1
venv=$2
here=$(dirname "$0")

if [ -z "$python" ]; then
    "$here/apt.sh" "no Python 3.11 or newer was found (set PYTHON=... if it lies elsewhere)" \
        python3 python3-venv
    python=python3
fi
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "$python is $("$python" -V 2>&1), and 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2
    exit 4
}

works() { [ -x "$venv/bin/python" ] && "$venv/bin/python" -P -m pip --version >/dev/null 2>&1; }
make_it() { "$python" -m venv "$venv" >/dev/null 2>&1 && works; }

works && exit 0
make_it && exit 0
# Debian splits ensurepip off into a package of its own, and venv leaves half an environment behind without it.
rm -rf "$venv"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
"$here/apt.sh" "$python cannot make a virtual environment (no ensurepip)" "python$version-venv"
"$python" -m venv "$venv"
