"""What every step of the demo works with: the client, the model, and where to print."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from _traffic.shares import SPLIT_SETTLE_S
from _traffic.workload import draw_rows
from rich.markup import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from inferlane_client import AsyncClient, Prediction, ServedModel, TrafficSplit

IRIS_SETOSA = [5.1, 3.5, 1.4, 0.2]


class ExpectationError(Exception):
    """The server did something else than it promises; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The versions are names; `canary` and `quantized` are None where the model has no such version."""

    client: AsyncClient
    console: Console
    served: tuple[ServedModel, ...]
    model: ServedModel
    baseline: str
    canary: str | None
    quantized: str | None
    requests: int

    @property
    def row(self) -> list[float]:
        """One instance that fits the model."""
        if self.model.name == "iris":
            return IRIS_SETOSA
        return self.draw(1, seed=7)[0]

    def draw(self, rows: int, *, seed: int) -> list[list[float]]:
        """Draw instances that fit the model; the same arguments give the same rows."""
        features = math.prod(self.model.versions[0].inputs[0].shape[1:])
        return draw_rows(self.model.name, features=features, rows=rows, seed=seed)

    async def predict(self, version: str | None = None) -> Prediction:
        """Ask for a prediction of the instance."""
        return await self.client.predict([self.row], model=self.model.name, version=version)

    async def set_split(self, weights: Mapping[str, float]) -> TrafficSplit:
        """Set the weights and wait until routers have had the time to apply them."""
        split = await self.client.set_traffic_split(weights, model=self.model.name)
        await asyncio.sleep(SPLIT_SETTLE_S)
        return split

    def title(self, number: int, text: str) -> None:
        self.console.print(f"\n[bold cyan]{number}[/]  [bold]{escape(text)}[/]")

    def say(self, text: str) -> None:
        self.console.print(f"   {escape(text)}")


def choose_model(served: tuple[ServedModel, ...], name: str | None) -> ServedModel:
    """The model with that name, or the default one if no name is given.

    Raises:
        ExpectationError: there is no such model, or none at all.
    """
    for model in served:
        if model.name == name or (name is None and model.is_default):
            return model
    known = ", ".join(model.name for model in served) or "none"
    raise ExpectationError(f"model {name or '(default)'} is not served with any version; served models: {known}")


def set_stage(
    client: AsyncClient, console: Console, served: tuple[ServedModel, ...], model: ServedModel, *, requests: int
) -> Stage:
    """Choose the versions to show: `v1`, `v2` and `v2-quantized`, or what stands for them in this model."""
    every = [version.version for version in model.versions]
    quantized = [version.version for version in model.versions if version.quantization != "none"]
    plain = [name for name in every if name not in quantized]
    names = plain if len(plain) > 1 else every
    baseline = "v1" if "v1" in names else names[0]
    others = [name for name in names if name != baseline]
    canary = "v2" if "v2" in others else next(iter(others), None)
    twin = f"{canary}-quantized"
    return Stage(
        client=client,
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


def describe_row(row: Mapping[str, Any]) -> str:
    """Return `setosa 97.0 %`, or the label alone."""
    return f"{row['label']} {max(row['probabilities']):.1%}" if row.get("probabilities") else str(row.get("label"))
