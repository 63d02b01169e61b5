"""`inferlane topics`: create and list what the catalog needs."""

import asyncio

import typer
from rich.table import Table

from inferlane.cli.console import out
from inferlane.cli.reaching import reachable_settings

app = typer.Typer(no_args_is_help=True, help="Create and list the topics that the models need.")


@app.command()
def create() -> None:
    """Create the topics that do not exist yet; existing ones stay as they are."""
    from inferlane.topics import create_topics  # noqa: PLC0415 - keep `inferlane --help` fast

    settings = reachable_settings()
    created = asyncio.run(create_topics(settings, _versions()))
    out.print(f"created {len(created)} topics" + "".join(f"\n  {name}" for name in created))


@app.command("list")
def list_topics() -> None:
    """Show every topic with its partitions and settings, as the code wants them."""
    from inferlane.topics import topic_specs  # noqa: PLC0415 - keep `inferlane --help` fast

    table = Table("topic", "partitions", "settings")
    for spec in topic_specs(reachable_settings(), _versions()):
        table.add_row(spec.name, str(spec.partitions), ", ".join(f"{k}={v}" for k, v in spec.config.items()))
    out.print(table)


def _versions() -> list[tuple[str, str]]:
    from models.catalog import load_catalog  # noqa: PLC0415 - keep `inferlane --help` fast

    settings = reachable_settings()
    catalog = load_catalog(settings.models_dir, default_model=settings.default_model)
    return [(version.model, version.version) for version in catalog.all_versions()]
