"""The documented shapes of OpenAI's calls: embeddings, its errors, and its list of models."""

from typing import Any

from pydantic import BaseModel, Field

from inferlane.contracts.wire.tensors import embedding_of
from models.live_catalog import AnyCatalog


class ListedModel(BaseModel):
    """A model as OpenAI's clients list it."""

    id: str
    object: str = "model"
    created: int = Field(description="Not known: 0.")
    owned_by: str


class EmbeddedText(BaseModel):
    object: str = "embedding"
    index: int = Field(description="Of the text in `input`.")
    embedding: list[float] | str = Field(description="Numbers, or their little-endian FP32 bytes in base64.")


class TokenUsage(BaseModel):
    prompt_tokens: int = Field(description="0 of a version that does not count tokens.")
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    object: str = "list"
    data: list[EmbeddedText]
    model: str
    usage: TokenUsage


class OpenAiFault(BaseModel):
    message: str = Field(description="What happened, the value, the limit and the remedy.")
    type: str
    param: str | None
    code: str | None


class OpenAiError(BaseModel):
    """The errors of the embeddings call."""

    error: OpenAiFault


def embeddings_bodies(catalog: AnyCatalog, max_rows: int) -> dict[str, Any] | None:
    """Return the schema of an embeddings call's body; None where no model embeds text."""
    tokens = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": 999_999_999}}
    names = [
        name
        for model in catalog.models.values()
        for version in model.versions.values()
        if embedding_of(version.signature)
        for name in (model.name, f"{model.name}/{version.version}")
    ]
    if not names:
        return None
    return {
        "title": "EmbeddingsRequest",
        "type": "object",
        "properties": {
            "model": {
                "type": "string",
                "enum": list(dict.fromkeys(names)),
                "description": "A model that embeds text, or `model/version` to pin a version.",
            },
            "input": {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "minItems": 1, "maxItems": max_rows, "items": {"type": "string"}},
                    tokens,
                    {"type": "array", "minItems": 1, "maxItems": max_rows, "items": tokens},
                ],
                "description": "A text, texts, or ids of the model's own tokens.",
            },
            "encoding_format": {"enum": ["float", "base64", None]},
            "dimensions": {
                "type": ["integer", "null"],
                "minimum": 1,
                "description": "The number of an embedding's values; another number is refused.",
            },
            "user": {"type": ["string", "null"], "description": "Not used."},
        },
        "required": ["model", "input"],
        "additionalProperties": False,
    }
