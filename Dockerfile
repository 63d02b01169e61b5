# syntax=docker/dockerfile:1
# One image for API, router and workers: `docker run inferlane api`, `… router`, `… worker --model iris --version v1`.
# The sample model iris is inside; to serve others, mount a model store at /opt/inferlane/models.
# `--target gpu` makes the image of workers on a GPU: onnxruntime-gpu with CUDA and cuDNN in place of onnxruntime.
# `--build-arg PYTHON_IMAGE=` takes a digest for builds that must repeat.
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
# This lock has the extra `models` and the embedded broker and store too: they are not in the image.
RUN python -m venv /build \
 && /build/bin/pip install --require-hashes --only-binary :all: -r requirements.lock \
 && /build/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY inferlane inferlane
COPY control_plane control_plane
COPY producer_api producer_api
COPY router router
COPY workers workers
COPY webhook_sender webhook_sender
COPY models models
COPY dashboards dashboards
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
 && /build/bin/pip install --no-deps /dist/*.whl
WORKDIR /samples
RUN INFERLANE_MODELS_DIR=/samples/models /build/bin/inferlane models build-samples

FROM ${PYTHON_IMAGE} AS install
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements-image.lock /
COPY --from=build /dist /dist
# Made where the image has it, for an environment cannot be moved; pip itself stays behind.
RUN python -m venv /opt/inferlane/venv \
 && /opt/inferlane/venv/bin/pip install --require-hashes --only-binary :all: -r /requirements-image.lock \
 && /opt/inferlane/venv/bin/pip install --no-deps /dist/*.whl \
 && /opt/inferlane/venv/bin/python -m compileall -q /opt/inferlane/venv/lib \
 && /opt/inferlane/venv/bin/pip uninstall --yes pip

FROM ${PYTHON_IMAGE} AS install-gpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements-gpu.lock /
COPY --from=install /opt/inferlane/venv /opt/inferlane/venv
# Both packages write the same folder: one has to go before the other comes.
RUN python -m pip --python /opt/inferlane/venv/bin/python uninstall --yes onnxruntime \
 && python -m pip --python /opt/inferlane/venv/bin/python install \
    --require-hashes --only-binary :all: -r /requirements-gpu.lock

FROM ${PYTHON_IMAGE} AS base
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="inferlane" \
      org.opencontainers.image.description="Queue-based model server: API, router and workers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 inferlane \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin inferlane
COPY --from=build /samples/models/iris /opt/inferlane/models/iris
ENV PATH=/opt/inferlane/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    INFERLANE_MODELS_DIR=/opt/inferlane/models \
    INFERLANE_STATE_DIR=/tmp \
    INFERLANE_LOG_FORMAT=json
WORKDIR /opt/inferlane
USER 10001:10001
# tini: a signal reaches the process although it is the first one, and nobody else's children stay behind.
ENTRYPOINT ["tini", "--", "inferlane"]
CMD ["--help"]

FROM base AS gpu
COPY --from=install-gpu /opt/inferlane/venv /opt/inferlane/venv

FROM base
COPY --from=install /opt/inferlane/venv /opt/inferlane/venv
