#!/bin/sh
# Install Debian packages as root or through passwordless sudo; else print the one line to run.
# Usage: scripts/apt.sh WHY PACKAGE...
set -eu
why=$1
shift

explain() {
    {
        echo "$why. Run this once, then the same make command again:"
        echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends $*"
    } >&2
    exit 4
}

command -v apt-get >/dev/null 2>&1 || explain "$@"
if [ "$(id -u)" -eq 0 ]; then
    as_root=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    as_root="sudo -n"
else
    explain "$@"
fi
echo "$why: installing $*" >&2
# `env` because sudo drops the environment. stdout belongs to the caller, which may be read by a program.
{
    $as_root apt-get -qq update &&
        $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"
} >&2 || explain "$@"
