# syntax=docker/dockerfile:1.7
# The image that fills banks: latentbank with torch for CUDA, and Ray. torch's wheels contain CUDA's libraries, so a
# plain Python image is enough. The driver comes from the machine (NVIDIA's container toolkit, or the device plugin in
# Kubernetes).
#
#   docker build -f deploy/docker/ingest.Dockerfile -t latentbank-ingest:0.1.0 .
FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/latentbank
ENV PATH=/opt/latentbank/bin:$PATH
WORKDIR /src

# One layer each, from what changes least to what changes most. The versions are those everything was tested with.
COPY constraints.txt ./
# 3 GB of wheels that rarely change. The package index's Linux wheels are those for CUDA.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt torch
COPY pyproject.toml deploy/docker/requirements.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python requirements.py pyproject.toml distributed > requirements.txt \
    && pip install --constraint constraints.txt --requirement requirements.txt

# The source; its dependencies are installed already. latentbank/ holds relative links to the other folders, which COPY
# of a folder keeps.
COPY README.md LICENSE NOTICE ./
COPY latentbank latentbank
COPY bank bank
COPY models models
COPY ingest ingest
COPY query query
COPY demo demo
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps .

# The final image, without pip cache and source tree.
FROM python:3.11-slim-bookworm

# tini forwards signals and reaps child processes. Python as process 1 would ignore SIGTERM.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /home/latentbank latentbank \
    && mkdir /models /data \
    && chown latentbank /models /data
COPY --from=build /opt/latentbank /opt/latentbank
COPY deploy/docker/entrypoint.sh /usr/local/bin/latentbank-entrypoint

# Models from the hub and plans are kept in volumes; without volumes, they are deleted with the container.
ENV PATH=/opt/latentbank/bin:$PATH \
    HF_HOME=/models \
    LATENTBANK_DATA_DIR=/data/banks \
    PYTHONUNBUFFERED=1
VOLUME ["/models", "/data"]
# A numeric user, so that Kubernetes can check runAsNonRoot.
USER 10001
WORKDIR /data
ENTRYPOINT ["tini", "--", "latentbank-entrypoint"]
CMD ["--help"]
