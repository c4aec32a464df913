# A base for the serving image where there is no GPU: the community CPU build of vLLM, for trying things and for tests.
# docs/images.md says how it is used. Its own base is Debian or a child of it, with Python 3.11 and its venv module.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# Where the CPU build of torch is looked for when pip's own indexes do not have it.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
# pip's own settings, for builds behind a mirror
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/venv
COPY requirements/serving-cpu.txt /tmp/
RUN set -eu; \
    torch=$(sed -n 's/^\(torch==[^ ]*+cpu\).*/\1/p' /tmp/serving-cpu.txt); \
    pip() { /opt/venv/bin/python -m pip install --no-deps "$@"; }; \
    pip "$torch" || pip --index-url "$TORCH_INDEX_URL" "$torch"; \
    pip --requirement /tmp/serving-cpu.txt; \
    cd /opt/venv/lib/python3*/site-packages; \
    rm -rf torch/test torch/bin/*[tT]est* torch/bin/protoc*

FROM ${BASE_IMAGE}
RUN apt-get update --quiet --quiet \
    && apt-get install --quiet --quiet --yes --no-install-recommends ca-certificates libnuma1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log
COPY --from=build /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
