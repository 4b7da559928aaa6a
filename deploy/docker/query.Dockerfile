# syntax=docker/dockerfile:1.7
# The image that reads banks, serves the page and makes backups: latentbank with torch for CPUs, a tenth of CUDA's size, and what
# vision-language models need to read images.
#
#   docker build -f deploy/docker/query.Dockerfile -t latentbank-query:0.1.0 .
FROM python:3.11-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/latentbank
ENV PATH=/opt/latentbank/bin:$PATH
WORKDIR /src

# One layer each, from what changes least to what changes most. The versions are those everything was tested with.
COPY constraints.txt ./
# Only the CPU index, so that pip cannot choose a CUDA wheel of the same version. The versions agree with
# constraints.txt (2.13.0+cpu satisfies 2.13.0), so the next layer finds torch and its kin installed.
RUN --mount=type=cache,target=/root/.cache/pip \
    grep -E "^torch(vision|audio)?==" constraints.txt > torch.txt \
    && pip install --index-url https://download.pytorch.org/whl/cpu --requirement torch.txt
COPY pyproject.toml deploy/docker/requirements.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python requirements.py pyproject.toml web backup vision > requirements.txt \
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
COPY deploy/backup/s3.py /usr/local/bin/latentbank-s3
# Models from the hub and plans are kept in volumes; without volumes, they are deleted with the container.
ENV PATH=/opt/latentbank/bin:$PATH \
    HF_HOME=/models \
    LATENTBANK_DATA_DIR=/data/banks \
    PYTHONUNBUFFERED=1
VOLUME ["/models", "/data"]
# A numeric user, so that Kubernetes can check runAsNonRoot.
USER 10001
WORKDIR /data
# The page.
EXPOSE 8265
ENTRYPOINT ["tini", "--", "latentbank-entrypoint"]
CMD ["--help"]
