"""A consumed record without a broker, and the smallest catalog that routes."""

from dataclasses import dataclass, field
from pathlib import Path

from inferlane.contracts.wire.tensors import Signature, TensorSpec
from models.catalog import Catalog, Model, ModelVersion

IRIS = Signature(
    inputs=(TensorSpec(name="input", datatype="FP32", shape=(-1, 4)),),
    outputs=(
        TensorSpec(name="label", datatype="INT64", shape=(-1,)),
        TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 3)),
    ),
)


@dataclass(frozen=True, kw_only=True)
class FakeRecord:
    topic: str = "inferlane.requests"
    partition: int = 0
    offset: int = 7
    timestamp: int = 1_700_000_000_000
    key: bytes | None = None
    value: bytes | None = b""
    headers: tuple[tuple[str, bytes], ...] = field(default=())


def make_version(version: str = "v1", model: str = "iris") -> ModelVersion:
    return ModelVersion(
        model=model,
        version=version,
        path=Path("model.onnx"),
        signature=IRIS,
        classes=("setosa", "versicolor", "virginica"),
        digest="sha256:0",
        size_bytes=1,
        quantization="none",
    )


def make_catalog(*versions: str, models: tuple[str, ...] = ("iris",)) -> Catalog:
    names = versions or ("v1", "v2")
    made = {
        model: Model(
            name=model,
            description="",
            default_version=names[0],
            versions={name: make_version(name, model) for name in names},
        )
        for model in models
    }
    return Catalog(models=made, default_model=models[0])
