"""Programs of others that `.ci/clients.sh` installs, and how tests run them."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import confluent_kafka

# Longer than any of them takes to load on a busy machine.
_WITHIN_S = 300


def clients_folder() -> Path:
    """Where `.ci/clients.sh` has put them."""
    return Path(os.environ["INFERLANE_CLIENTS"])


def run_client(*argv: str, told: str = "", **environment: str) -> str:
    """What a program prints that is `told` this on stdin and must succeed."""
    done = subprocess.run(
        argv,
        input=told,
        env={**os.environ, **environment},
        cwd=clients_folder(),
        capture_output=True,
        text=True,
        timeout=_WITHIN_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def newer_librdkafka() -> Mapping[str, str]:
    """The environment that gives kcat the librdkafka of confluent-kafka's wheel.

    Debian's own (2.0.2) cannot read the embedded broker's list of versions, and sends a nonce in SCRAM that Apache
    Kafka 4 refuses.
    """
    held = Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs"
    (library,) = held.glob("librdkafka-*.so*")
    link = clients_folder() / "librdkafka" / "librdkafka.so.1"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(library)
    return {"LD_LIBRARY_PATH": f"{link.parent}:{held}"}
