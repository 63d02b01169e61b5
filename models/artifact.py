"""The files that a version is made of, read once: what is hashed is what is loaded.

The digest of a version is that of `model.onnx`. Where there are files beside it (weights as ONNX external data, a
tokenizer), it is that of a list of all files in the format of `sha256sum`, sorted by name:
`sha256sum model.onnx w.bin | sha256sum`.
"""

import hashlib
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from inferlane.errors import ConfigurationError, quoted

# Numbers of fields in the protocol buffers of ONNX. Source: onnx/onnx.proto, version 1.23.
_MODEL_GRAPH, _MODEL_FUNCTION, _FUNCTION_NODE = 7, 25, 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_OPERATOR = 4
# Of a number of 64 bits, with 7 in each.
_VARINT_BYTES = 10
_NODE_ATTRIBUTE, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = 5, (5, 10), (6, 11), (22, 23)
_SPARSE_TENSORS = (1, 2)
_TENSOR_EXTERNAL, _ENTRY_KEY, _ENTRY_VALUE = 13, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_REMEDY = "Export the model with its weights in model.onnx, or in files beside it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A version's files in memory: the graph, and external data by the name that the graph gives it."""

    model: bytes
    external: Mapping[str, bytes]
    # Why it is no ONNX model, if so; its external data is not known then.
    fault: str | None = None
    # The other files that the version names, such as a tokenizer.
    files: Mapping[str, bytes] = dataclass_field(default_factory=dict)

    @property
    def beside(self) -> Mapping[str, bytes]:
        """Every file but the model itself."""
        return {**self.external, **self.files}

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return len(self.model) + sum(map(len, self.beside.values()))

    @property
    def digest(self) -> str:
        """`sha256:<hex>` of everything that is loaded."""
        own = hashlib.sha256(self.model).hexdigest()
        if not self.beside:
            return f"sha256:{own}"
        hashes = {name: hashlib.sha256(part).hexdigest() for name, part in self.beside.items()} | {"model.onnx": own}
        listing = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
        return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"


def read_artifact(path: Path, files: Iterable[str] = ()) -> Artifact:
    """Read `model.onnx` at `path`, the external data that it names, and `files` beside it.

    Raises:
        ConfigurationError: a file cannot be read, or is named outside of the folder of the model.
    """
    model = _read(path)
    named = {name: _read(_inside(path.parent, name, "version.toml names a file")) for name in sorted(set(files))}
    try:
        names = external_names(model)
    except (ValueError, IndexError, RecursionError) as error:
        return Artifact(model=model, external={}, fault=f"it holds no ONNX model ({error})", files=named)
    external = {name: _read(_inside(path.parent, name, "the model names external data")) for name in names}
    return Artifact(model=model, external=external, files=named)


def external_names(model: bytes) -> list[str]:
    """The files beside it that a model keeps weights in, by the names that it has for them.

    Raises:
        ConfigurationError: a part of the model is in a file, where onnxruntime would look for it by itself.
        ValueError, IndexError, RecursionError: it is no model.
    """
    return sorted(set(_external_names(memoryview(model))))


def check_artifact(path: Path, artifact: Artifact, *, digest: str, size_bytes: int) -> None:
    """Compare what was read with what version.toml says.

    Raises:
        ConfigurationError: it is something else; the message names the files.
    """
    remedy = "Restore the file, or build it again (samples: `inferlane models build-samples --force`)."
    files = ", ".join([str(path), *sorted(artifact.beside)])
    if artifact.size_bytes != size_bytes:
        raise ConfigurationError(f"{files}: {artifact.size_bytes} bytes, but version.toml says {size_bytes}. {remedy}")
    if artifact.digest != digest:
        raise ConfigurationError(f"{files}: {artifact.digest}, but version.toml says {digest}. {remedy}")
    if artifact.fault:
        raise ConfigurationError(f"{path}: onnxruntime cannot load it: {artifact.fault}. {_REMEDY}")


# Operators that are defined for NaN: it goes a way of its own in each tree, and an imputer fills it in.
_TAKE_NAN = (b"TreeEnsemble", b"Imputer")


def takes_nan(path: Path) -> bool:
    """Whether NaN means a missing value to the graph at `path`: it has trees, or an imputer.

    Only nodes are read, and weights are passed over: every service asks this at its start. False for what is no graph.
    """
    try:
        with path.open("rb") as file:
            return any(
                file.read(end - file.tell()).startswith(_TAKE_NAN)
                for graph_end in _within(file, path.stat().st_size, _MODEL_GRAPH)
                for node_end in _within(file, graph_end, _GRAPH_NODE)
                for end in _within(file, node_end, _NODE_OPERATOR)
            )
    except (OSError, ValueError, IndexError, OverflowError, MemoryError):
        return False


def _within(file: BinaryIO, end: int, wanted: int) -> Iterator[int]:
    """Where each field of this number ends, in a protocol buffer that ends at `end`; the file stands at its start.

    Source: as `_fields`.
    """
    while file.tell() < end:
        tag = _varint_in(file)
        kind = tag & 7
        if kind == _VARINT:
            _varint_in(file)
            continue
        if kind not in {_FIXED64, _FIXED32, _BYTES}:
            raise ValueError(f"a field of the kind {kind}")
        length = _varint_in(file) if kind == _BYTES else 8 if kind == _FIXED64 else 4
        field_end = file.tell() + length
        if kind == _BYTES and tag >> 3 == wanted:
            yield min(field_end, end)
        file.seek(field_end)


def _varint_in(file: BinaryIO) -> int:
    raw = file.read(1)
    while raw and raw[-1] >= 0x80 and len(raw) <= _VARINT_BYTES:  # noqa: PLR2004 - the bit that says that more follows
        raw += file.read(1) or b"\0"
    return _varint(memoryview(raw), 0)[0]


def _read(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigurationError(f"{path} is no file. {_REMEDY}")
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}. {_REMEDY}") from error


def _inside(folder: Path, name: str, what: str) -> Path:
    """Where a file of the version lies.

    Raises:
        ConfigurationError: not in this very folder, or only by a link.
    """
    parts = PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name or "\\" in name:
        raise ConfigurationError(f"{folder}: {what} at {quoted(name)}, outside of it. {_REMEDY}")
    path = folder
    for part in parts:
        path /= part
        if path.is_symlink():
            raise ConfigurationError(
                f"{path} is a link, which no file of a version may be. Copy the folder with what its links lead to "
                "(`cp -rL`, as from the cache of Hugging Face), or export the model with its weights in model.onnx."
            )
    return path


def _external_names(model: memoryview) -> Iterator[str]:
    """The files that initializers of the graph are in.

    Raises:
        ConfigurationError: another part of the model is in a file, where onnxruntime would look for it by itself.
        ValueError, IndexError: it is no model.
    """
    for field, part in _fields(model):
        if field == _MODEL_GRAPH:
            yield from _initializers(part)
            if any(_inner(part)):
                _refuse_hidden()
        elif field == _MODEL_FUNCTION and any(_of_nodes(part, _FUNCTION_NODE)):
            _refuse_hidden()


def _initializers(graph: memoryview) -> Iterator[str]:
    for field, part in _fields(graph):
        if field == _GRAPH_INITIALIZER:
            yield from _locations(part)


def _inner(graph: memoryview) -> Iterator[str]:
    """What a graph keeps in files beside its initializers."""
    yield from _of_nodes(graph, _GRAPH_NODE)
    for field, part in _fields(graph):
        if field == _GRAPH_SPARSE:
            yield from _of_sparse(part)


def _of_nodes(owner: memoryview, number: int) -> Iterator[str]:
    """External data in the attributes of all nodes, which are field `number` of their owner."""
    for node_field, node in _fields(owner):
        if node_field != number:
            continue
        for field, attribute in _fields(node):
            if field == _NODE_ATTRIBUTE:
                yield from _of_attribute(attribute)


def _of_attribute(attribute: memoryview) -> Iterator[str]:
    for field, part in _fields(attribute):
        if field in _ATTRIBUTE_TENSORS:
            yield from _locations(part)
        elif field in _ATTRIBUTE_SPARSE:
            yield from _of_sparse(part)
        elif field in _ATTRIBUTE_GRAPHS:
            yield from _initializers(part)
            yield from _inner(part)


def _of_sparse(sparse: memoryview) -> Iterator[str]:
    for field, part in _fields(sparse):
        if field in _SPARSE_TENSORS:
            yield from _locations(part)


def _refuse_hidden() -> None:
    raise ConfigurationError(
        f"the model has external data in an inner graph, a function or an attribute, which is not served. {_REMEDY}"
    )


def _locations(tensor: memoryview) -> list[str]:
    found = []
    for field, entry in _fields(tensor):
        if field == _TENSOR_EXTERNAL:
            pair = {number: bytes(part) for number, part in _fields(entry)}
            if pair.get(_ENTRY_KEY) == b"location":
                found.append(pair.get(_ENTRY_VALUE, b"").decode())
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The fields of a protocol buffer that have a length; others are passed over.

    Source: Protocol Buffers, "Encoding".
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _BYTES:
            length, at = _varint(message, at)
            if length > end - at:
                raise ValueError(f"a field of {length} bytes where {end - at} are left")
            yield tag >> 3, message[at : at + length]
            at += length
        elif kind == _VARINT:
            _, at = _varint(message, at)
        elif kind in {_FIXED64, _FIXED32}:
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of the kind {kind}")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, at
        shift += 7
        if shift > 63:  # noqa: PLR2004 - a varint has at most 64 bits
            raise ValueError("a number of more than 64 bits")
