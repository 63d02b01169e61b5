"""The metrics of all API processes that share a port, whichever of them is asked."""

import asyncio
import re
import time
from collections.abc import Iterable, Mapping

import structlog

from inferlane.errors import ConfigurationError, UnavailableError
from inferlane.runtime.http.local_get import local_get
from inferlane.runtime.ops import EXPOSITION

log = structlog.get_logger(__name__)

_OK = 200
# Gathering takes each process milliseconds of its event loop, and nobody needs a key to ask: who asks sooner is given
# the same again.
_REUSED_S = 0.5
_LABEL = "process"
# Name, labels and value of a sample. Source: Prometheus text format 0.0.4.
_SAMPLE = re.compile(r"([^\s{]+)(?:\{(.*)\})?( .*)", re.DOTALL)


def read_peers(api_peers: str) -> Mapping[str, str]:
    """The ops URL of each process by its name, from `INFERLANE_API_PEERS`.

    Raises:
        ConfigurationError: it is not of the form `name=url,name=url`.
    """
    peers = dict(part.partition("=")[::2] for part in api_peers.split(",") if part)
    if not all(name and url.startswith("http://") for name, url in peers.items()):
        raise ConfigurationError(
            f"INFERLANE_API_PEERS={api_peers!r} is not name=http://host:port for each process, with commas between"
        )
    return peers


class SharedMetrics:
    """Gathers the metrics of the processes that share a port. Without peers they are those of this process."""

    def __init__(self, peers: Mapping[str, str]) -> None:
        """`peers`: the ops URL of each process, this one too, by its name; none for a process alone."""
        self._peers = peers
        self._text = b""
        self._fresh_until_s = 0.0
        self._gathering = asyncio.Lock()

    async def text(self) -> bytes:
        """The metrics as Prometheus reads them, with the label `process` where there are several.

        A process that does not answer, because it is being started or has died, is left out.
        """
        if not self._peers:
            return EXPOSITION.text()
        async with self._gathering:
            if time.monotonic() >= self._fresh_until_s:
                self._text = await self._gather()
                self._fresh_until_s = time.monotonic() + _REUSED_S
        return self._text

    async def _gather(self) -> bytes:
        found = await asyncio.gather(*(_metrics_of(name, url) for name, url in self._peers.items()))
        return merged({name: text for name, text in zip(self._peers, found, strict=True) if text is not None})


async def _metrics_of(name: str, url: str) -> str | None:
    try:
        status, body = await local_get(url, "/metrics")
    except UnavailableError as error:
        log.info("peer_metrics_missing", process=name, reason=str(error))
        return None
    return body.decode() if status == _OK else None


def merged(texts: Mapping[str, str]) -> bytes:
    """One exposition from those of several processes, each sample with the name of its process as a label.

    The lines of a metric stand together, as the format demands.
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for process, text in texts.items():
        for family, is_about, line in _lines(text):
            about, samples = families.setdefault(family, ([], []))
            if not is_about:
                samples.append(_labelled(line, process))
            elif line not in about:
                about.append(line)
    return "".join(f"{line}\n" for about, samples in families.values() for line in (*about, *samples)).encode()


def _lines(text: str) -> Iterable[tuple[str, bool, str]]:
    """Yield each line with the metric that it belongs to, and whether it is about it."""
    family = ""
    for line in text.splitlines():
        if line.startswith(("# HELP ", "# TYPE ")):
            family = line.split(" ", 3)[2]
            yield family, True, line
        elif line and not line.startswith("#"):
            yield family, False, line


def _labelled(sample: str, process: str) -> str:
    found = _SAMPLE.fullmatch(sample)
    if found is None:
        return sample
    name, labels, value = found.groups()
    return f'{name}{{{_LABEL}="{process}"{f",{labels}" if labels else ""}}}{value}'
