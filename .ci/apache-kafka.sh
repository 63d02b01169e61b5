#!/usr/bin/env bash
# Makes Apache Kafka for the tests: a Java, Maven, and the jars that tests/brokers/apache/pom.xml names. Seconds when
# all is there. Debian or Ubuntu, root, where Java or Maven is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v java >/dev/null || missing+=(default-jre-headless)
command -v mvn >/dev/null || missing+=(maven)
if ((${#missing[@]})); then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
fi
.venv/bin/python -m tests.brokers.apache.jars
