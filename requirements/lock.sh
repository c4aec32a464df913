#!/bin/sh
# lock.sh: makes the locks from the .in files and pyproject.toml (`make lock`). Add --upgrade for new versions.
# uv reads no pip settings: where torch's CPU build lies elsewhere, set UV_FIND_LINKS or UV_EXTRA_INDEX_URL.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
lock() {
    name=$1
    shift
    echo "locking requirements/$name.txt"
    UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile --quiet --universal --python-version 3.11 \
        --no-emit-package fettle --output-file "requirements/$name.txt" \
        "$@" "requirements/$name.in" requirements/dev.in
}
lock cpu --override requirements/cpu.overrides "$@"
lock portable --constraint requirements/cpu.txt "$@"
lock cuda --override requirements/cuda.overrides "$@"
# Of the images, which are Linux with Python 3.11: each alone, in the versions that are tested together in .venv.
# Nothing in them differs between x86-64 and aarch64.
image_lock() {
    name=$1 source=$2 tested=$3
    shift 3
    echo "locking requirements/$name.txt"
    UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile --quiet --python-version 3.11 \
        --python-platform x86_64-manylinux_2_28 --no-emit-package fettle \
        --constraint "requirements/$tested.txt" --output-file "requirements/$name.txt" "$@" "requirements/$source.in"
}
image_lock service service cpu "$@"
image_lock trainer-cpu trainer cpu "$@"
image_lock trainer-cuda trainer cuda "$@"
image_lock serving serving cuda "$@"
image_lock serving-cpu serving-cpu cpu --override requirements/cpu.overrides "$@"
for environment in tests/clients/environments/*.in; do
    echo "locking ${environment%.in}.txt"
    UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/bin/uv pip compile --quiet --universal --python-version 3.11 \
        --output-file "${environment%.in}.txt" "$@" "$environment"
done
