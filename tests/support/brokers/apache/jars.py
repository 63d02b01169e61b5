"""The server's jars: copied once by Maven, kept under `.inferlane/kafka`.

`python -m tests.support.brokers.apache` fetches them and prints where they are.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

_POM = Path(__file__).with_name("pom.xml")
_CACHE = Path(__file__).parents[4] / ".inferlane" / "kafka"
# 3.8.1 is the oldest of the plugin that Maven 3.8 of Debian 12 and Maven 3.9 both run.
_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
_FETCH_WITHIN_S = 600
_MINIMUM_JAVA = 17


class MissingPartError(RuntimeError):
    """What Apache Kafka needs is not on this machine."""


def jars_dir() -> Path:
    """The folder of the jars that the pom names, fetched if it is not there.

    Raises:
        MissingPartError: no Java or no Maven here, or the artifacts cannot be fetched.
    """
    java()
    chosen = os.environ.get("INFERLANE_TEST_KAFKA_JARS")
    if chosen:
        return Path(chosen)
    folder = _CACHE / hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]
    if not folder.is_dir():
        _fetch(folder)
    return folder


def java() -> str:
    """The Java to run.

    Raises:
        MissingPartError: there is none.
    """
    found = shutil.which("java")
    if found is None:
        raise MissingPartError(
            f"no `java` on PATH; Apache Kafka needs {_MINIMUM_JAVA} or later: apt-get install default-jre-headless"
        )
    return found


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise MissingPartError("no `mvn` on PATH to fetch Apache Kafka with: apt-get install maven")
    # Whole or not at all: a fetch that was cut off leaves nothing that looks like a cache.
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    argv = (maven, "-B", "-q", "-f", str(_POM), _COPY, "-DincludeScope=runtime", f"-DoutputDirectory={partial}")
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_FETCH_WITHIN_S, check=False)
        if done.returncode:
            raise MissingPartError(f"Maven could not fetch Apache Kafka: {(done.stdout + done.stderr)[-2000:]}")
        try:
            partial.rename(folder)
        except OSError:
            # Somebody else was faster.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
