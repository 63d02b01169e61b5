"""What every step of the demo works with: the API, the model, and where to print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from _traffic.workload import draw_rows
from rich.markup import escape

if TYPE_CHECKING:
    from _traffic.api import Api
    from _traffic.documents import Model, Models, Row
    from rich.console import Console

IRIS_SETOSA = [5.1, 3.5, 1.4, 0.2]


class ExpectationError(Exception):
    """The server did something else than it promises; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The versions are names; `canary` and `quantized` are None where the model has no such version."""

    api: Api
    console: Console
    served: Models
    model: Model
    baseline: str
    canary: str | None
    quantized: str | None
    requests: int

    @property
    def row(self) -> list[float]:
        """One instance that fits the model."""
        if self.model.name == "iris":
            return IRIS_SETOSA
        return draw_rows(self.model.name, features=self.model.versions[0].features, rows=1, seed=7)[0]

    @property
    def body(self) -> dict[str, object]:
        return {"instances": [self.row], "model": self.model.name}

    def title(self, number: int, text: str) -> None:
        self.console.print(f"\n[bold cyan]{number}[/]  [bold]{escape(text)}[/]")

    def say(self, text: str) -> None:
        self.console.print(f"   {escape(text)}")


def set_stage(api: Api, console: Console, served: Models, model: Model, *, requests: int) -> Stage:
    """Choose the versions to show: `v1`, `v2` and `v2-quantized`, or what stands for them in this model."""
    plain = [version.version for version in model.versions if not version.is_quantized]
    quantized = [version.version for version in model.versions if version.is_quantized]
    names = plain if len(plain) > 1 else model.version_names
    baseline = "v1" if "v1" in names else names[0]
    others = [name for name in names if name != baseline]
    canary = "v2" if "v2" in others else next(iter(others), None)
    twin = f"{canary}-quantized"
    return Stage(
        api=api,
        console=console,
        served=served,
        model=model,
        baseline=baseline,
        canary=canary,
        quantized=twin if twin in quantized else next(iter(quantized), None),
        requests=requests,
    )


def expect(claim: bool, otherwise: str) -> None:
    """Raise `ExpectationError` with that message unless the claim is true."""
    if not claim:
        raise ExpectationError(otherwise)


def describe_row(row: Row) -> str:
    """Return `setosa 97.0 %`, or the label alone."""
    return f"{row.label} {max(row.probabilities):.1%}" if row.probabilities else str(row.label)
