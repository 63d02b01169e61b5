"""The document's bodies are made for the catalog, whatever it holds."""

import base64
from pathlib import Path

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.runtime.config import load_settings
from models.catalog import Catalog
from models.store_reader import load_catalog
from producer_api.http.request_schemas import _row, example_array, predict_bodies, split_bodies, split_examples
from tests.support.fakes.stores import write_tiny_store


def tiny(tmp_path: Path) -> Catalog:
    write_tiny_store(tmp_path)
    return load_catalog(tmp_path, default_model="tiny")


def test_a_body_names_what_the_catalog_holds(tmp_path: Path) -> None:
    schema = predict_bodies(tiny(tmp_path), load_settings(max_rows=7, default_wait_s=9, max_wait_s=9).api)
    (body,) = schema["anyOf"]
    fields = body["properties"]
    assert fields["instances"]["items"]["minItems"] == fields["instances"]["items"]["maxItems"] == 3
    assert "at most 7" in fields["instances"]["description"]
    assert fields["model"]["enum"] == ["tiny", "", None]
    assert fields["version"]["enum"] == ["v1", "", None]
    assert fields["timeout_s"]["maximum"] == 9
    assert schema["examples"] == [{"instances": [[0.5, 0.5, 0.5]]}]


def test_a_split_names_the_versions(tmp_path: Path) -> None:
    catalog = tiny(tmp_path)
    named, default = split_bodies(catalog)["anyOf"]
    assert named["properties"]["weights"] == default
    assert list(default["properties"]) == ["v1"]
    assert split_examples(catalog) == {"tiny": {"value": {"model": "tiny", "weights": {"v1": 1}}}}


def test_a_row_of_several_inputs_has_a_field_for_each() -> None:
    inputs = (
        TensorSpec(name="a", datatype="INT8", shape=(-1, 2)),
        TensorSpec(name="b", datatype="BOOL", shape=(-1,)),
        TensorSpec(name="c", datatype="FP32", shape=(-1, 2, -1)),
    )
    row = _row(Signature(inputs=inputs, outputs=()).inputs)
    assert row["required"] == ["a", "b", "c"]
    assert row["properties"]["a"]["items"] == {"type": "integer", "minimum": -128, "maximum": 127}
    assert row["properties"]["b"] == {"type": "boolean"}
    assert "maxItems" not in row["properties"]["c"]["items"]


def test_an_input_of_raw_bytes_is_base64_in_json() -> None:
    image = TensorSpec(name="image", datatype="BYTES", shape=(-1, 1), is_binary=True)

    assert _row((image,))["items"] == {"type": "string", "contentEncoding": "base64"}
    assert base64.b64decode(example_array(image)[0], validate=True).startswith(b"\x89PNG")


def test_a_catalog_with_nothing_to_serve_has_a_document_too() -> None:
    nothing = Catalog(models={}, default_model="iris")
    assert predict_bodies(nothing, load_settings().api)["anyOf"] == [{"not": {}}]
    assert split_bodies(nothing)["anyOf"] == [{"not": {}}]
