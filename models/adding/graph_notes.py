"""What a person says of a graph that the graph does not say itself: rows, fill, masks, and the names of columns."""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from inferlane.contracts.wire.tensors import Column, Signature, TensorSpec
from inferlane.errors import ConfigurationError, clipped, quoted


class GraphNotes(msgspec.Struct, frozen=True, kw_only=True):
    """As `version.toml` has them. `pads`, as a person wrote them, and `masks` are by the names of inputs."""

    has_row_axis: bool = True
    pads: Mapping[str, str] = {}
    masks: Mapping[str, str] = {}
    columns: tuple[Column, ...] = ()

    def noted(self, graph: Signature) -> Signature:
        """The signature of the graph with these notes.

        Raises:
            ConfigurationError: they name an input that there is not, or a fill that an input cannot have.
        """
        known = {spec.name for spec in graph.inputs}
        for name in (*self.pads, *self.masks, *self.masks.values()):
            if name not in known:
                raise ConfigurationError(f"there is no input {quoted(name)}; the model has: {', '.join(sorted(known))}")
        inputs = tuple(
            replace(spec, pad=_pad(self.pads.get(spec.name), spec), mask_of=self.masks.get(spec.name, spec.mask_of))
            for spec in graph.inputs
        )
        if self.columns:
            inputs = (replace(inputs[0], columns=self.columns), *inputs[1:])
        return replace(graph, inputs=inputs)


NO_NOTES = GraphNotes()


class _ColumnsFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    columns: tuple[Column, ...]


def parsed_notes(
    *, has_row_axis: bool, pads: Sequence[str] = (), masks: Sequence[str] = (), columns: Path | None = None
) -> GraphNotes:
    """The notes that a command line gives: `INPUT=VALUE`, `MASK=INPUT`, and a file with `[[columns]]`.

    Raises:
        ConfigurationError: one has no such form, or the file cannot be read.
    """
    return GraphNotes(
        has_row_axis=has_row_axis,
        pads=dict(_pair("--pad", text) for text in pads),
        masks=dict(_pair("--mask", text) for text in masks),
        columns=() if columns is None else _columns_of(columns),
    )


def _pair(option: str, text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise ConfigurationError(f"{option} {quoted(text)} has no '='; write INPUT=VALUE")
    return name, value


def _pad(value: str | None, spec: TensorSpec) -> float | str | None:
    """The fill of an input, from its text."""
    if value is None:
        return spec.pad
    where = f"--pad {quoted(f'{spec.name}={value}')}"
    if not spec.is_free:
        raise ConfigurationError(
            f"{where}: the rows of this input have one length, {list(spec.row_shape)}, and are never filled up. Leave "
            "it out"
        )
    if spec.kind == "BYTES":
        return value
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if spec.kind == "FP":
        limits = np.finfo(spec.dtype)
        fits = float(limits.min) <= number <= float(limits.max)
        wanted = f"a finite number in the range of {spec.datatype}"
    else:
        least, most = (0, 1) if spec.kind == "BOOL" else (np.iinfo(spec.dtype).min, np.iinfo(spec.dtype).max)
        fits = number.is_integer() and least <= int(number) <= most
        wanted = f"a whole number from {least} to {most}"
    if not fits:
        raise ConfigurationError(f"{where}: the input is {spec.datatype}; give {wanted}")
    return int(number) if number.is_integer() else number


def _columns_of(path: Path) -> tuple[Column, ...]:
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8-sig")), _ColumnsFile).columns
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"--columns {str(path)!r} holds no [[columns]], as version.toml has them: {clipped(str(error))}"
        ) from error
