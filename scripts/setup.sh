#!/usr/bin/env bash
# Makes the virtual environment that every make target uses. Run by make; safe to run again.
set -euo pipefail

venv=${1:-.venv}

python=""
for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3 python3.14; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python 3.11 or newer is needed and was not found." >&2
    echo "  Debian/Ubuntu: sudo apt install python3 python3-venv     macOS: brew install python" >&2
    exit 2
fi

if ! "$python" -m venv "$venv"; then
    echo "$python cannot make virtual environments." >&2
    echo "  Debian/Ubuntu: sudo apt install python3-venv" >&2
    exit 2
fi

echo "Installing into $venv (torch is the large part: minutes on a slow line) ..."
"$venv/bin/python" -m pip install --quiet --upgrade pip
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
