#!/bin/sh
# Evaluates the plugin `transcribe` against the reference implementation. Makes its own Python
# environment (300 MB) on the first run.
#
#   tests/eval/run.sh --plugin FOLDER [further arguments of transcription_f1.py]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${WARREN_EVAL_VENV:-$here/../../.venv}

for tool in python3 fluidsynth; do
    command -v "$tool" >/dev/null 2>&1 || {
        echo "run.sh: $tool is not installed (Debian: apt install python3-venv fluidsynth timgm6mb-soundfont)" >&2
        exit 1
    }
done

# The stamp holds the requirements that are installed, so that a change of them is noticed.
if ! cmp -s "$here/requirements.txt" "$venv/requirements.installed"; then
    python3 -m venv "$venv" || {
        echo "run.sh: cannot make a Python environment in $venv (Debian: apt install python3-venv)" >&2
        exit 1
    }
    # --no-deps: basic-pitch asks for TensorFlow, which is not needed; the list names all the rest.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/requirements.installed"
fi
exec "$venv/bin/python" "$here/transcription_f1.py" "$@"
