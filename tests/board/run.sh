#!/usr/bin/env bash
# A wheel on a Debian of another architecture, emulated: installed beside the distribution's Python, numpy and safetensors,
# it must give the answers of this machine; and the C tests must pass there.
#
#     tests/board/run.sh arm64|armhf WHEEL FOLDER
#
# Wants root (for chroot), debootstrap, qemu-user-static, cmake and the cross compiler, and a Python with mxn-edge and
# scikit-image. Nothing is configured there, only unpacked: dpkg under emulation would take minutes.
set -euo pipefail

architecture=$1 wheel=$2 folder=$3
repository=$(cd "$(dirname "$0")/../.." && pwd)
case $architecture in
  arm64) machine=aarch64 triplet=aarch64-linux-gnu isas='neondot, neon, scalar' ;;
  armhf) machine=arm triplet=arm-linux-gnueabihf isas='neon, scalar' ;;
  *) echo "$0: no such architecture: $architecture" >&2; exit 2 ;;
esac
board=$folder/$architecture
mirror=${MXN_EDGE_DEBIAN_MIRROR:-http://deb.debian.org/debian}

mkdir -p "$folder"
debootstrap --arch="$architecture" --foreign --variant=minbase --include=python3,python3-numpy,python3-safetensors \
  trixie "$board" "$mirror" >"$folder/debootstrap-$architecture.log" || { tail "$folder/debootstrap-$architecture.log"; exit 1; }
for package in "$board"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$board"; done
emulator=$(command -v "qemu-$machine-static")
cp "$emulator" "$board/emulator"
# Where the alternatives of BLAS and LAPACK would point.
libraries=/usr/lib/$triplet
# In a mount namespace of its own, so that /proc goes with it.
there() {
  env -i PATH="$PATH" unshare --mount sh -c 'mount --rbind /proc "$0/proc" && exec chroot "$0" /emulator "$@"' "$board" \
    -cpu max -E LD_LIBRARY_PATH="$libraries/blas:$libraries/lapack" -E PATH=/usr/local/bin:/usr/bin -E HOME=/root "$@"
}

there /usr/bin/python3 -c 'import platform, numpy, safetensors as s
print("---", platform.machine(), "Python", platform.python_version(), "numpy", numpy.__version__, "safetensors", s.__version__)'
mkdir -p "$board/proof"
cp "$wheel" "$repository/tests/board/answers.py" "$board/proof"
pip download -q --no-deps --only-binary :all: --dest "$board/proof" pip
there /usr/bin/python3 "/proof/$(basename "$board"/proof/pip-*.whl)/pip" install -q --no-index --break-system-packages \
  --root-user-action ignore "/proof/$(basename "$wheel")"

there /usr/bin/python3 -m mxn_edge info | tee "$folder/info-$architecture" | grep -E '^(python|numpy|machine|ISA|precision)'
grep -q "^ISA available: *$isas\$" "$folder/info-$architecture"
python - "$board/proof/frame.npy" <<'PYTHON'
import sys
import numpy as np
from skimage import data
np.save(sys.argv[1], data.astronaut()[:, :, ::-1])
PYTHON
python "$repository/tests/board/answers.py" "$board/proof/frame.npy" >"$board/proof/expected.json"
there /usr/bin/python3 /proof/answers.py /proof/frame.npy /proof/expected.json

cmake -S "$repository/csrc" -B "$folder/c-$architecture" -DCMAKE_C_COMPILER="$triplet-gcc" -DCMAKE_SYSTEM_NAME=Linux \
  -DCMAKE_SYSTEM_PROCESSOR="$machine" -DMXN_BUILD_EXAMPLES=OFF -DCMAKE_C_FLAGS=-DMXN_TEST_QUICK >"$folder/cmake-$architecture.log"
cmake --build "$folder/c-$architecture" --parallel 2 >>"$folder/cmake-$architecture.log"
cp -P "$folder/c-$architecture"/{libmxn.so*,test_core,test_api} "$board$libraries/"
there "$libraries/test_api"
there "$libraries/test_core" >"$folder/test_core-$architecture" || { grep -v '^ok' "$folder/test_core-$architecture"; exit 1; }
echo "--- $architecture: passed"
