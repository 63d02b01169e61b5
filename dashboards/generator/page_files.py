"""Write the pages as the JSON files that are committed."""

from collections.abc import Mapping
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards.generator import overview_page, process_pages, version_page
from dashboards.generator.panels import Page, build

FOLDER = Path(__file__).parents[1] / "grafana"


def pages() -> tuple[Page, ...]:
    """Return every dashboard, the overview first."""
    return (overview_page.PAGE, version_page.PAGE, overview_page.QUEUE, process_pages.WORKERS, process_pages.API)


def documents() -> Mapping[str, str]:
    """Return the text of each file by its name."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    return {f"{page.uid}.json": encoder.encode(build(page)) + "\n" for page in pages()}


def write_all() -> None:
    """Write the files."""
    for name, text in documents().items():
        (FOLDER / name).write_text(text)
