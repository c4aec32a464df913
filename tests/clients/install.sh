#!/bin/sh
# install.sh: what the tests with real clients need (`make clients`): Python environments in .clients/ from the locks
# in environments/, and the packages of npm. What is there already is left alone.
set -eu
cd "$(dirname "$0")/../.."

for lock in tests/clients/environments/*.txt; do
    environment=.clients/$(basename "$lock" .txt)
    if cmp -s "$lock" "$environment/lock.txt" && "$environment/bin/python" -c ''; then
        continue
    fi
    echo "  $environment …"
    rm -rf "$environment"
    .venv/bin/python -m venv --without-pip "$environment"
    # locks are complete: pip resolves nothing
    .venv/bin/python -m pip --python "$environment/bin/python" install -qq --disable-pip-version-check \
        --no-deps --no-compile -r "$lock"
    cp "$lock" "$environment/lock.txt"
done

cd tests/clients/node
if ! cmp -s package-lock.json node_modules/lock.json; then
    echo "  tests/clients/node/node_modules …"
    npm ci --silent
    cp package-lock.json node_modules/lock.json
fi
