#!/bin/sh
# Brings Basic Pitch's ONNX model (nmp.onnx, 230 KB, Apache-2.0) from its PyPI package.
#
#   fetch-model.sh DEST      DEST is the folder or the file to put it in
#
# Does nothing when the right file is there. A file put there by hand is as good.
set -eu

package=basic-pitch==0.4.0
wheel=basic_pitch-0.4.0-py2.py3-none-any.whl
wheel_sha256=738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0
member=basic_pitch/saved_models/icassp_2022/nmp.onnx
model_sha256=2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec

fail() {
    echo "fetch-model.sh: $1" >&2
    echo "By hand: unzip $member from $wheel (https://pypi.org/project/basic-pitch/0.4.0/#files)" >&2
    echo "and put it at $dest." >&2
    exit 1
}

if [ $# -ne 1 ]; then
    echo "usage: fetch-model.sh DEST (a folder, or the path of nmp.onnx)" >&2
    exit 2
fi
dest=$1
case $dest in *.onnx) ;; *) dest=$dest/nmp.onnx ;; esac

command -v python3 >/dev/null 2>&1 || fail "python3 is not installed (Debian: apt install python3 python3-pip)"

sha256() {
    python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1"
}

if [ -f "$dest" ] && [ "$(sha256 "$dest")" = "$model_sha256" ]; then
    exit 0
fi

python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip (Debian: apt install python3-pip)"
mkdir -p "$(dirname "$dest")" || fail "cannot create the folder of $dest"

# Beside the destination, so that the last step is a rename within one file system.
work=$(mktemp -d "$(dirname "$dest")/.fetch-model.XXXXXX") || fail "cannot write beside $dest"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

echo "fetching $package from the package index" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --ignore-requires-python --only-binary :all: \
    --dest "$work" "$package" >&2 || fail "pip could not download $package; is the network, or pip's index, reachable?"
[ -f "$work/$wheel" ] || fail "pip downloaded another file than $wheel: $(ls "$work")"
found=$(sha256 "$work/$wheel")
[ "$found" = "$wheel_sha256" ] || fail "$wheel has sha256 $found, expected $wheel_sha256"

python3 -c '
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, open(sys.argv[3], "wb") as out:
    out.write(wheel.read(sys.argv[2]))
' "$work/$wheel" "$member" "$work/nmp.onnx" || fail "cannot unzip $member from $wheel"
found=$(sha256 "$work/nmp.onnx")
[ "$found" = "$model_sha256" ] || fail "$member has sha256 $found, expected $model_sha256"
mv -f "$work/nmp.onnx" "$dest" || fail "cannot write $dest"
echo "$dest" >&2
