"""Verification: a version that is not what its version.toml says is found before it serves."""

from pathlib import Path

import pytest

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError
from models.catalog import ModelVersion
from models.store import digest_of
from models.store_reader import load_catalog
from models.verify import verify_version
from tests.support.fakes.stores import FEATURES, SIGNATURE, write_tiny_store


def stored(models_dir: Path) -> ModelVersion:
    return load_catalog(models_dir, default_model="tiny").model().version("v1")


def flip_byte(path: Path, offset: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def test_a_version_as_it_was_written_verifies(tmp_path: Path) -> None:
    write_tiny_store(tmp_path)

    verify_version(stored(tmp_path))


@pytest.mark.parametrize("offset", [0, 20, -1])
def test_one_flipped_byte_is_found(tmp_path: Path, offset: int) -> None:
    flip_byte(write_tiny_store(tmp_path), offset)

    with pytest.raises(ConfigurationError, match=r"sha256:\w+, but version\.toml says sha256:"):
        verify_version(stored(tmp_path))


def test_a_truncated_file_is_found(tmp_path: Path) -> None:
    onnx = write_tiny_store(tmp_path)
    onnx.write_bytes(onnx.read_bytes()[:-1])

    with pytest.raises(ConfigurationError, match=r"\d+ bytes, but version\.toml says \d+"):
        verify_version(stored(tmp_path))


def test_a_file_that_is_no_model_is_found_although_its_digest_is_right(tmp_path: Path) -> None:
    onnx = write_tiny_store(tmp_path)
    about = onnx.with_name("version.toml")
    old = digest_of(onnx)
    flip_byte(onnx, 0)
    about.write_text(about.read_text().replace(old, digest_of(onnx)))

    with pytest.raises(ConfigurationError, match="onnxruntime cannot load it"):
        verify_version(stored(tmp_path))


@pytest.mark.parametrize(
    "claimed",
    [
        TensorSpec(name="other", datatype="FP32", shape=(-1, FEATURES)),
        TensorSpec(name="input", datatype="FP64", shape=(-1, FEATURES)),
        TensorSpec(name="input", datatype="FP32", shape=(-1, FEATURES + 1)),
        TensorSpec(name="input", datatype="FP32", shape=(1, FEATURES)),
    ],
    ids=["name", "datatype", "features", "fixed-rows"],
)
def test_a_signature_that_the_model_does_not_have_is_found(tmp_path: Path, claimed: TensorSpec) -> None:
    write_tiny_store(tmp_path, signature=Signature(inputs=(claimed,), outputs=SIGNATURE.outputs))

    with pytest.raises(ConfigurationError, match=r"but version\.toml says"):
        verify_version(stored(tmp_path))


def test_a_model_whose_answer_is_not_finite_is_found(tmp_path: Path) -> None:
    write_tiny_store(tmp_path, operator="Log")

    with pytest.raises(ConfigurationError, match="finite"):
        verify_version(stored(tmp_path))
