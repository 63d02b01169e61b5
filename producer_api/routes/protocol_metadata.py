"""What the Open Inference Protocol tells of the server and its models: everything but the infer call.

Source: Open Inference Protocol V2, "Health", "Server Metadata", "Model Metadata"; Triton's "Model Repository" and
"Model Configuration" extensions.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Response

from inferlane import __version__
from inferlane.contracts.wire.tensors import TensorSpec
from models.catalog import ModelVersion
from producer_api.http.asgi import (
    V2_INDEX_PATH,
    V2_LIVE_PATH,
    V2_MODEL_PATH,
    V2_READY_PATH,
    V2_ROOT,
    V2_VERSION_PATH,
)
from producer_api.http.protocol_schemas import (
    IndexEntry,
    IndexFilter,
    ModelConfig,
    ModelMetadata,
    ModelNames,
    ModelReadiness,
    ServerMetadata,
)
from producer_api.http.responses import as_fastapi, health_response
from producer_api.routes.dependencies import AppServices, Services, refuse_repeated
from producer_api.routes.operations import live_checks, ready_checks
from producer_api.routes.served_models import about_tensors, faults_of_workers

router = APIRouter(tags=["Open Inference Protocol"], dependencies=[Depends(refuse_repeated)])

_EXTENSIONS = ["binary_tensor_data", "classification", "model_repository", "model_configuration", "parameters"]
_PLATFORM = "onnxruntime_onnx"

ModelName = Annotated[str, Path(description="The name of a model, as `GET /v2/models` lists it.")]
VersionName = Annotated[str, Path(description="The name of one of its versions.")]


@router.get(V2_LIVE_PATH)
async def protocol_live(services: AppServices) -> Response:
    """Whether the tasks of this process run."""
    return _health("live", services)


@router.get(V2_READY_PATH)
async def protocol_ready(services: AppServices) -> Response:
    """Whether this process can serve."""
    return _health("ready", services)


def _health(name: str, services: Services) -> Response:
    checks = live_checks(services) if name == "live" else ready_checks(services)
    return as_fastapi(health_response(name, checks))


@router.get(V2_ROOT, response_model=ServerMetadata)
async def server_metadata() -> dict[str, Any]:
    """The server's name, version and extensions."""
    return describe_server()


@router.get(f"{V2_ROOT}/models", response_model=ModelNames)
async def model_names(services: AppServices) -> dict[str, Any]:
    """The names of the models."""
    return {"models": list(services.catalog.models)}


@router.post(V2_INDEX_PATH, response_model=list[IndexEntry])
async def repository_index(
    services: AppServices, wanted: Annotated[IndexFilter | None, Body()] = None
) -> list[dict[str, Any]]:
    """Every version, and why one that is not served is not. With `{"ready": true}` only those that are served."""
    unusable = (*services.catalog.faults, *await faults_of_workers(services))
    reasons = {(fault.model, fault.version): fault.reason for fault in unusable}
    served = [(version.model, version.version) for version in services.catalog.all_versions()]
    entries = [
        _entry(name, version, reasons.get((name, version))) for name, version in dict.fromkeys([*served, *reasons])
    ]
    return [entry for entry in entries if entry["state"] == "READY"] if wanted and wanted.ready else entries


@router.get(V2_MODEL_PATH, response_model=ModelMetadata)
async def model_metadata(model: ModelName, services: AppServices) -> dict[str, Any]:
    """The model's versions, and the tensors of the version that calls get which name none."""
    return describe_version(services, unpinned_version(services, model))


@router.get(V2_VERSION_PATH, response_model=ModelMetadata)
async def version_metadata(model: ModelName, version: VersionName, services: AppServices) -> dict[str, Any]:
    """The tensors of a version."""
    return describe_version(services, services.catalog.model(model).version(version))


@router.get(f"{V2_MODEL_PATH}/ready", response_model=ModelReadiness)
async def model_ready(model: ModelName, services: AppServices, response: Response) -> dict[str, Any]:
    """Whether calls that name no version are served."""
    return await _readiness(services, unpinned_version(services, model), response)


@router.get(f"{V2_VERSION_PATH}/ready", response_model=ModelReadiness)
async def version_ready(
    model: ModelName, version: VersionName, services: AppServices, response: Response
) -> dict[str, Any]:
    """Whether a version is served: this process is ready, and no worker has reported that it cannot load it."""
    return await _readiness(services, services.catalog.model(model).version(version), response)


@router.get(f"{V2_MODEL_PATH}/config", response_model=ModelConfig)
async def model_config(model: ModelName, services: AppServices) -> dict[str, Any]:
    """The model as Triton's load generators want it described."""
    return _configuration(services, unpinned_version(services, model))


@router.get(f"{V2_VERSION_PATH}/config", response_model=ModelConfig)
async def version_config(model: ModelName, version: VersionName, services: AppServices) -> dict[str, Any]:
    """As above, of a version."""
    return _configuration(services, services.catalog.model(model).version(version))


def describe_server() -> dict[str, Any]:
    """Return what both forms of the protocol say of the server."""
    return {"name": "inferlane", "version": __version__, "extensions": _EXTENSIONS}


def unpinned_version(services: Services, name: str) -> ModelVersion:
    """Return the version whose tensors calls get that name none.

    Raises:
        UnknownModelError: there is no such model, or it cannot be served.
    """
    model = services.catalog.model(name)
    return model.unpinned(services.splits.get(model.name))


def describe_version(services: Services, version: ModelVersion) -> dict[str, Any]:
    """Return what both forms of the protocol say of a version."""
    return {
        "name": version.model,
        "versions": list(services.catalog.model(version.model).versions),
        "platform": _PLATFORM,
        "inputs": about_tensors(version.signature.inputs),
        "outputs": about_tensors(version.signature.outputs),
    }


def _configuration(services: Services, version: ModelVersion) -> dict[str, Any]:
    def tensors(specs: Sequence[TensorSpec]) -> list[dict[str, Any]]:
        return [{"name": spec.name, "data_type": _configured(spec.datatype), "dims": spec.row_shape} for spec in specs]

    return {
        "name": version.model,
        "platform": _PLATFORM,
        "backend": "onnxruntime",
        "max_batch_size": services.settings.api.max_rows,
        "input": tensors(version.signature.inputs),
        "output": tensors(version.signature.outputs),
    }


def _configured(datatype: str) -> str:
    """Return Triton's name for a datatype in a configuration, where text is a string."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


async def is_served(services: Services, version: ModelVersion) -> bool:
    """Whether this process is ready, and no worker has reported that it cannot load the version."""
    broken = {(fault.model, fault.version) for fault in await faults_of_workers(services)}
    return all(ready_checks(services).values()) and (version.model, version.version) not in broken


async def _readiness(services: Services, version: ModelVersion, response: Response) -> dict[str, Any]:
    is_ready = await is_served(services, version)
    response.status_code = 200 if is_ready else 503
    return {"name": version.model, "ready": is_ready}


def _entry(model: str, version: str | None, reason: str | None) -> dict[str, Any]:
    state = "READY" if reason is None else "UNAVAILABLE"
    return {"name": model, "version": version or "", "state": state, "reason": reason or ""}
