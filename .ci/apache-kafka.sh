#!/usr/bin/env bash
# Makes Apache Kafka for the tests: a Java, Maven, and the jars that tests/support/brokers/apache/pom.xml names. Seconds when
# all is there; makes or completes .venv. Debian or Ubuntu, root, where Java or Maven is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=()
command -v java >/dev/null || packages+=(default-jre-headless)
command -v mvn >/dev/null || packages+=(maven)
.ci/apt-install.sh "${packages[@]}"
# What the next line runs is part of the tests, whose packages `./start.sh` does not install.
.ci/setup-venv.sh requirements-dev.lock
.venv/bin/python -m tests.support.brokers.apache
