"""Fetches the jars of Apache Kafka and prints where they are."""

import sys

from tests.support.brokers.apache.jars import MissingPartError, jars_dir

try:
    sys.stdout.write(f"{jars_dir()}\n")
except MissingPartError as error:
    sys.exit(f"error: {error}")
