"""The entry of a version in the catalogue topic: its state, its manifest, and where its files are. Pure."""

from enum import StrEnum
from typing import Annotated

import msgspec

from inferlane.contracts.naming import check_model_name, check_version_name
from inferlane.errors import UNDECODABLE, DecodeError, InvalidNameError, clipped


class VersionState(StrEnum):
    """`SERVING` → `RETIRING` → `RETIRED`. A retiring version finishes what was accepted and accepts nothing new."""

    SERVING = "serving"
    RETIRING = "retiring"
    RETIRED = "retired"


_Text = Annotated[str, msgspec.Meta(max_length=2_048)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class CatalogEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One record of the topic; its key is `model/version`. A version is never changed, only its state is."""

    model: Annotated[str, msgspec.Meta(max_length=512)]
    version: Annotated[str, msgspec.Meta(max_length=512)]
    state: VersionState
    # The digest of all files of the version.
    digest: Annotated[str, msgspec.Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
    # The folder of the version, as its publisher reaches it: a path, or a URL.
    location: _Text
    # Rises with each change of the model's entries: of two records of one version, the higher one is in force.
    generation: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    # The generation in which it became the default version, 0 if it never did: of the versions of a model, the highest
    # is the default. A change of the default is therefore one record.
    default_since: _Count = 0
    # The fields of `model.toml`.
    description: _Text = ""
    classes: tuple[_Text, ...] = ()
    # The fields of `version.toml` as JSON: enough to check requests without the files.
    manifest: msgspec.Raw = msgspec.Raw(b"{}")
    changed_s: float = 0.0

    @property
    def key(self) -> str:
        """The key of the record."""
        return entry_key(self.model, self.version)


def entry_key(model: str, version: str) -> str:
    """Return the key of a version's record. No name holds a slash."""
    return f"{model}/{version}"


_decode = msgspec.json.Decoder(CatalogEntry).decode
encode_entry = msgspec.json.Encoder().encode


def decode_entry(raw: bytes) -> CatalogEntry:
    """Read a record of the catalogue topic.

    Raises:
        DecodeError: it holds no entry, or one with a name that no version can have.
    """
    try:
        entry = _decode(raw)
        check_model_name(entry.model)
        check_version_name(entry.version)
    except InvalidNameError as error:
        raise DecodeError(f"a record of the catalogue topic has a name that no version can have: {error}") from error
    except UNDECODABLE as error:
        raise DecodeError(f"a record of the catalogue topic holds no entry: {clipped(str(error))}") from error
    # A `Raw` of the decoder points into the record; a copy lets the record be freed.
    return msgspec.structs.replace(entry, manifest=entry.manifest.copy())
