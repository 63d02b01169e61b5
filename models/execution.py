"""Where a version runs: `[runtime]` of version.toml, and what onnxruntime is told of it.

onnxruntime falls back to the CPU with no more than a line in a log. Here what was asked for and is not there is an
error that names what is installed.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

import msgspec

from inferlane.contracts.wire.tensors import Signature
from inferlane.errors import ConfigurationError

CPU = "cpu"
_ON_GPU = frozenset({"cuda", "tensorrt", "rocm", "migraphx", "webgpu"})
# Where the name is not the provider's with a capital letter.
_SPELLED = {
    "cpu": "CPU",
    "cuda": "CUDA",
    "tensorrt": "Tensorrt",
    "rocm": "ROCM",
    "migraphx": "MIGraphX",
    "openvino": "OpenVINO",
    "dnnl": "Dnnl",
    "xnnpack": "Xnnpack",
    "coreml": "CoreML",
    "webgpu": "WebGpu",
}
_SUFFIX = "ExecutionProvider"
_NAME = r"^[a-z0-9]{1,30}$"
_MIB = 1024 * 1024
# Each number of rows is a shape that a GPU allocates memory and chooses kernels for: few of them bound its memory.
_GPU_BATCH_SIZES = (1, 8, 32, 128, 256)


class Execution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[runtime]`: the providers in the order of preference, and how they run the graph.

    Where `cpu` is not among the providers, every operator must run on one that is.
    """

    providers: Annotated[tuple[Annotated[str, msgspec.Meta(pattern=_NAME)], ...], msgspec.Meta(min_length=1)] = (CPU,)
    # Of one run on the CPU; None: INFERLANE_INTRA_OP_NUM_THREADS.
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    # Rows of a run, ascending: a batch is filled up to the next of them. Empty on the CPU: any number.
    batch_sizes: tuple[Annotated[int, msgspec.Meta(ge=1, le=65_536)], ...] | None = None
    # Of one GPU, for one worker.
    memory_limit_mib: Annotated[int, msgspec.Meta(ge=1)] | None = None
    device: Annotated[int, msgspec.Meta(ge=0)] = 0
    # A folder for the engines that TensorRT builds, which takes minutes.
    engine_cache: str | None = None

    @property
    def on_gpu(self) -> bool:
        """Whether a provider of it is one of a GPU."""
        return not _ON_GPU.isdisjoint(self.providers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The rows that a run may have; empty: any number."""
        if self.batch_sizes is not None:
            return self.batch_sizes
        return _GPU_BATCH_SIZES if self.on_gpu else ()


ON_CPU = Execution()


def check_execution(where: str, execution: Execution) -> None:
    """Return if the table is consistent.

    Raises:
        ConfigurationError: a provider is named twice, or sizes do not ascend; the message begins with `where`.
    """
    if len(set(execution.providers)) < len(execution.providers):
        raise ConfigurationError(f"{where}: a provider is named twice: {', '.join(execution.providers)}")
    if any(first >= second for first, second in pairwise(execution.batch_sizes or ())):
        raise ConfigurationError(f"{where}: batch_sizes must ascend: {list(execution.batch_sizes or ())}")


def parsed_execution(option: str, *, providers: str, threads: int | None = None) -> Execution:
    """The execution that a command line asks for: names with commas between them.

    Raises:
        ConfigurationError: it has no such form; the message begins with `option`.
    """
    names = [name.strip().lower() for name in providers.split(",")]
    try:
        execution = msgspec.convert({"providers": names}, Execution)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{option} {providers!r} names no providers, such as cuda,cpu: {error}") from error
    try:
        execution = msgspec.convert({"providers": names, "threads": threads}, Execution)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"--threads {threads}: {error}") from error
    check_execution(option, execution)
    return execution


def provider_name(name: str) -> str:
    """What onnxruntime calls a provider: `CUDAExecutionProvider` for `cuda`."""
    return f"{_SPELLED.get(name, name.capitalize())}{_SUFFIX}"


def short_name(provider: str) -> str:
    """What we call a provider of onnxruntime: `cuda` for `CUDAExecutionProvider`."""
    return re.sub(f"{_SUFFIX}$", "", provider).lower()


def check_installed(execution: Execution, installed: Sequence[str]) -> None:
    """Return if every provider that was asked for is among the `installed` ones, which onnxruntime names.

    Raises:
        ConfigurationError: one is not; the message names those that are.
    """
    missing = [name for name in execution.providers if provider_name(name) not in installed]
    if missing:
        remedy = (
            " The package onnxruntime-gpu, in the image target `gpu`, has those of NVIDIA."
            if not _ON_GPU.isdisjoint(missing)
            else ""
        )
        raise ConfigurationError(
            f"[runtime] asks for the provider {', '.join(missing)}, which is not installed. Installed: "
            f"{', '.join(map(short_name, installed))}.{remedy} Correct `providers` in version.toml."
        )


def check_in_use(execution: Execution, used: Sequence[str]) -> None:
    """Return if a session uses every provider that was asked for.

    Raises:
        ConfigurationError: one could not be started, so onnxruntime went on without it.
    """
    missing = [name for name in execution.providers if provider_name(name) not in used]
    if missing:
        raise ConfigurationError(
            f"[runtime] asks for the provider {', '.join(missing)}, which is installed and could not be started; in "
            f"use is {', '.join(map(short_name, used))}. onnxruntime has logged why: often a driver or a library "
            "(CUDA, cuDNN, TensorRT) of another version, or no device."
        )


def session_config(execution: Execution) -> dict[str, str]:
    """The entries of a session's configuration."""
    # Without the CPU, operators that no provider takes are an error, and not run on the CPU.
    return {} if CPU in execution.providers else {"session.disable_cpu_ep_fallback": "1"}


def provider_options(execution: Execution, signature: Signature | None) -> list[tuple[str, dict[str, str]]]:
    """The providers with their options, as onnxruntime takes them; `signature` gives TensorRT its shapes."""
    return [(provider_name(name), _options(name, execution, signature)) for name in execution.providers]


def _options(name: str, execution: Execution, signature: Signature | None) -> dict[str, str]:
    options: dict[str, str] = {}
    limit = execution.memory_limit_mib
    if name in {"cuda", "tensorrt", "rocm", "migraphx"}:
        options["device_id"] = str(execution.device)
    if name in {"cuda", "rocm"}:
        # The other strategy doubles what it holds with each extension, beyond what the shapes need.
        options["arena_extend_strategy"] = "kSameAsRequested"
        if limit is not None:
            options["gpu_mem_limit"] = str(limit * _MIB)
    if name == "tensorrt":
        if limit is not None:
            options["trt_max_workspace_size"] = str(limit * _MIB)
        if execution.engine_cache is not None:
            options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": execution.engine_cache}
        options |= _profile(execution.sizes, signature)
    return options


def _profile(sizes: Sequence[int], signature: Signature | None) -> Mapping[str, str]:
    """TensorRT builds one engine for all sizes, instead of another one, in minutes, whenever a larger batch comes."""
    if not sizes or signature is None or signature.has_free_axes or signature.batch >= 0:
        return {}

    def shapes(rows: int) -> str:
        return ",".join(f"{spec.name}:{'x'.join(map(str, (rows, *spec.row_shape)))}" for spec in signature.inputs)

    names = ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")
    return dict(zip(names, map(shapes, (sizes[0], sizes[len(sizes) // 2], sizes[-1])), strict=True))


def as_table(execution: Execution) -> dict[str, Any]:
    """The table as version.toml and `GET /v1/models` have it: what differs from the default, and the providers."""
    values: dict[str, Any] = msgspec.to_builtins(execution)
    default = msgspec.to_builtins(ON_CPU)
    return {name: value for name, value in values.items() if name == "providers" or value != default[name]}
