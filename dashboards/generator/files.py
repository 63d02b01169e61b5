"""The committed files, from the pages."""

from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.generator import api, overview, queue, versions, workers
from dashboards.generator.grafana import build
from dashboards.generator.page import Page

FOLDER = Path(__file__).parents[1] / "grafana"


def pages() -> tuple[Page, ...]:
    """Every dashboard, the one to look at first first."""
    return (overview.PAGE, versions.PAGE, queue.PAGE, workers.PAGE, api.PAGE)


def documents() -> Mapping[str, str]:
    """The text of each file by its name."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {f"{page.uid}.json": encoder.encode(build(page)) + "\n" for page in pages()}


def write_all() -> None:
    """Write the files."""
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
