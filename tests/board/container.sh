#!/usr/bin/env bash
# The container of docs/deploy.md without Docker: its RUN steps in a fresh Debian, then a prediction in the image that they
# make, which must stay under 120 MB.
#
#     tests/board/container.sh WHEEL FOLDER
#
# Wants root (for chroot) and debootstrap. The wheels are fetched from outside: the new Debian may not know the way.
set -euo pipefail

wheel=$1 folder=$2
repository=$(cd "$(dirname "$0")/../.." && pwd)
if [ "$(uname -m)" != x86_64 ]; then echo "not run: the wheels are fetched for x86-64"; exit 0; fi
mirror=${MXN_EDGE_DEBIAN_MIRROR:-http://deb.debian.org/debian}
mkdir -p "$folder"
build=$folder/container
debootstrap --variant=minbase trixie "$build" "$mirror" >"$folder/debootstrap-container.log" || {
  tail "$folder/debootstrap-container.log"
  exit 1
}
mkdir "$build/wheels"
pip download -q --only-binary :all: --python-version 3.13 --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 \
  --platform manylinux2014_x86_64 --dest "$build/wheels" "$wheel"
sed -n '/^RUN /,/[^\]$/p' "$repository/docs/deploy.md" | sed 's/^RUN //' >"$build/steps"
[ -s "$build/steps" ]
chroot "$build" env -i PATH="$PATH" HOME=/root PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels bash -e /steps >"$folder/container.log" 2>&1 || {
  tail -20 "$folder/container.log"
  exit 1
}
image=$build/image
megabytes=$(du -s --apparent-size --block-size=1000000 "$image" | cut -f1)
echo "--- the container's image: $megabytes MB"
[ "$megabytes" -lt 120 ]
cp "$repository/tests/board/answers.py" "$image"
python -c "
import sys, numpy
from skimage import data
numpy.save(sys.argv[1], data.astronaut()[:, :, ::-1])" "$image/frame.npy"
python "$image/answers.py" "$image/frame.npy" >"$image/expected.json"
chroot --userspec=65534:65534 "$image" /usr/bin/python3 /answers.py /frame.npy /expected.json
