"""Small graphs of any inputs and outputs, served as a worker serves them: from a call's body to its predictions."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from inferlane.contracts.naming import Lane
from inferlane.contracts.record import JSON_LENGTH
from inferlane.contracts.wire.v1 import encode_predictions
from inferlane.contracts.wire.v2 import decode_response, encode_response
from inferlane.runtime.config import load_settings
from inferlane.runtime.retry import SystemClock
from inferlane.runtime.split_table import SplitTable
from models.adding.publication import write_version
from models.catalog import Catalog
from models.model_session import open_session, signature_of
from models.store import VersionAbout, dump_toml, write_model
from models.store_reader import load_catalog
from producer_api.predict.call import CallReader
from tests.support.decoding import decode
from tests.support.fakes.records import FakeRecord
from workers.batching import run_batch
from workers.model import OnnxModel
from workers.model_check import load_verified
from workers.requests import Request

Tensor = tuple[str, int, Sequence[int | str | None]]
"""Name, ONNX element type and shape of an input or output; a string or None is a free axis."""


def add_graph(  # noqa: PLR0913 - one for each part of a graph
    models_dir: Path,
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    initializers: Sequence[onnx.TensorProto] = (),
    version: str = "v1",
    classes: Sequence[str] = (),
    extra: str = "",
) -> None:
    """Add a version of the model `made`; `extra` are lines that version.toml begins with."""

    def write(path: Path) -> None:
        given, gives = ([helper.make_tensor_value_info(*tensor) for tensor in side] for side in (inputs, outputs))
        graph = helper.make_graph(list(nodes), "made", given, gives, list(initializers))
        imports = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 3)]
        path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())

    def describe(path: Path) -> VersionAbout:
        signature = signature_of(open_session(path))
        return VersionAbout(quantization="none", signature=signature, metrics={}, quantized={})

    write_version(models_dir, model="made", version=version, write_onnx=write, describe=describe)
    write_model(models_dir / "made", description="", default_version="v1", classes=classes)
    path = models_dir / "made" / version / "version.toml"
    path.write_text(extra + "\n" + path.read_text())


def edit_input(models_dir: Path, name: str, **fields: Any) -> None:
    """Set fields of an input in the version.toml of `v1`."""
    path = models_dir / "made" / "v1" / "version.toml"
    table = tomllib.loads(path.read_text())
    entries = [entry | (fields if entry["name"] == name else {}) for entry in table.pop("inputs")]
    lists = {"inputs": entries, "outputs": table.pop("outputs")}
    tables = {key: table.pop(key) for key in ("metrics", "quantized") if key in table}
    path.write_text(dump_toml(table, tables=tables, lists=lists))


def catalog_of(models_dir: Path) -> Catalog:
    """The store's catalog."""
    return load_catalog(models_dir, default_model="made")


def open_made(models_dir: Path, version: str = "v1") -> OnnxModel:
    """The version as a worker has it before it serves."""
    return load_verified(catalog_of(models_dir).model("made").version(version), intra_op_num_threads=1, rows=8)


def as_record(models_dir: Path, instances: Any, *, splits: SplitTable | None = None) -> FakeRecord:
    """What the API makes of a V1 call: text is sent as it is, all else as JSON."""
    text = instances if isinstance(instances, str) else json.dumps(instances)
    catalog = catalog_of(models_dir)
    reader = CallReader(
        load_settings().api,
        load_settings().kafka,
        load_settings().webhooks,
        catalog=catalog,
        splits=splits or SplitTable(),
        clock=SystemClock(),
    )
    call = reader.read(f'{{"model": "made", "instances": {text}}}'.encode())
    return FakeRecord(value=call.payload, headers=((JSON_LENGTH, str(call.json_length).encode()),))


def read(model: OnnxModel, record: FakeRecord) -> Request:
    """The record as the worker reads it."""
    return decode(record, Lane.REQUESTS, model.version)


def answers(model: OnnxModel, *records: FakeRecord) -> list[Any]:
    """The predictions of each record, from one batch, as the API tells them.

    Raises:
        ModelError: one of them failed.
    """
    found = []
    for outcome in run_batch(model.run, [read(model, record) for record in records]):
        if outcome.outputs is None:
            raise outcome.error or AssertionError("neither outputs nor an error")
        content = encode_response(outcome.outputs, model="made", version="v1", form=outcome.request.form)
        found.append(encode_predictions(decode_response(*content), model.version.class_names))
    return found


def ask(models_dir: Path, instances: Any) -> Any:
    """The predictions of one call over HTTP, through a session of a worker."""
    (found,) = answers(open_made(models_dir), as_record(models_dir, instances))
    return found
