#!/usr/bin/env bash
# Clients that know nothing of Inferlane, and its own, get right answers: the examples of the documents on the embedded
# stack; and each client of the list (Triton's, KServe's, MLServer's, curl, confluent-kafka, kcat, kafkajs, ours) for three
# models on a stack with keys and TLS, on Apache Kafka with TLS and passwords. KServe's and MLServer's code has an
# environment each, for their pins clash with ours. OpenAI's and LangChain's clients are tried in tests/e2e/test_steps.py.
# Also holds the AsyncAPI document against the schema that AsyncAPI publishes. Needs .venv and the sample models
# (./test.sh makes both); Debian or Ubuntu, root, where kcat, curl, Node, Java or Maven is missing.
# The locks are made by: uv pip compile .ci/clients/NAME.in --python-version 3.11 --universal --generate-hashes --no-header
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(kcat curl)
command -v npm >/dev/null || packages+=(nodejs npm)
.ci/apt-install.sh "${packages[@]}"
.ci/apache-kafka.sh

readonly FOLDER=.inferlane/clients
mkdir -p "$FOLDER"
cp .ci/clients/package.json .ci/clients/package-lock.json "$FOLDER"
npm ci --silent --prefix "$FOLDER"
for client in kserve mlserver; do
  .venv/bin/uv venv -q --clear --python .venv/bin/python "$FOLDER/$client"
  .venv/bin/uv pip sync -q --python "$FOLDER/$client" --require-hashes ".ci/clients/$client.lock"
done

INFERLANE_CLIENTS="$PWD/$FOLDER" .venv/bin/python -m pytest --durations=5 tests/clients
