# The service image: API, dispatcher and the command `fettle`; no torch. docs/images.md says how to build and run it.
# The base is Debian or a child of it, with Python 3.11 and its venv module as python3.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
# pip's own settings, for builds behind a mirror
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/venv
COPY requirements/service.txt /tmp/
RUN /opt/venv/bin/python -m pip install --no-deps --requirement /tmp/service.txt
WORKDIR /opt/fettle
COPY LICENSE README.md pyproject.toml models.yaml ./
COPY base_models base_models
COPY tuning tuning
COPY service service
# Editable, because the catalogue and its models lie beside the packages.
RUN /opt/venv/bin/python -m pip install --no-deps --no-build-isolation --editable . \
    && /opt/venv/bin/python -m compileall -q service tuning \
    && /opt/venv/bin/python -m pip uninstall --yes --quiet setuptools pip

FROM ${BASE_IMAGE}
# bubblewrap: the sandbox of python graders. tini: as process 1 it ends what has no handler for SIGTERM, such as
# `fettle migrate`, and buries the orphans of killed workers.
RUN apt-get update --quiet --quiet \
    && apt-get install --quiet --quiet --yes --no-install-recommends bubblewrap ca-certificates tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/log/apt /var/log/dpkg.log \
    && echo 'fettle:x:10001:10001:Fettle:/tmp:/usr/sbin/nologin' >>/etc/passwd \
    && echo 'fettle:x:10001:' >>/etc/group
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/fettle /opt/fettle
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Fettle: service" \
      org.opencontainers.image.description="API and dispatcher of a self-hosted fine-tuning service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# The root file system may be read-only: /tmp is all that is written to. What must last is in the database and the
# object storage; with SQLite or a folder in their place, FETTLE_DATA_DIR names a volume.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    LOGNAME=fettle \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HUB_DISABLE_TELEMETRY=1 \
    FETTLE_HOST=0.0.0.0 \
    FETTLE_DATA_DIR=/tmp/fettle
WORKDIR /opt/fettle
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--", "fettle"]
CMD ["serve"]
