"""Holds records against the AsyncAPI document of the topics."""

import json
import re
from collections.abc import Mapping
from typing import Any

from jsonschema import Draft7Validator


def faults_of(document: Mapping[str, Any], topic: str, headers: Mapping[str, bytes], value: bytes | None) -> list[str]:
    """Return why the record is none of the messages of its topic; an empty list if it is one."""
    channel = next((each for each in document["channels"].values() if _is_address(each["address"], topic)), None)
    if channel is None:
        return [f"no channel has the address {topic}"]
    faults = {
        name: _message_faults(document, document["components"]["messages"][name], headers, value or b"")
        for name in channel["messages"]
    }
    if not all(faults.values()):
        return []
    return [f"{topic} {name}: {fault}" for name, found in faults.items() for fault in found]


def _is_address(address: str, topic: str) -> bool:
    pattern = re.sub(r"\\\{\w+\\\}", "[^ ]+", re.escape(address))
    return address == topic or ("{" in address and re.fullmatch(pattern, topic) is not None)


def _message_faults(
    document: Mapping[str, Any], message: Mapping[str, Any], headers: Mapping[str, bytes], value: bytes
) -> list[str]:
    text = {name: raw.decode() for name, raw in headers.items()}
    faults = _schema_faults(document, message["headers"], text)
    if message["payload"].get("format") == "binary":
        return faults
    if message["payload"].get("maxLength") == 0:
        return faults + ([f"{len(value)} bytes"] if value else [])
    try:
        payload = json.loads(value)
    except ValueError as error:
        return [*faults, str(error)]
    return faults + _schema_faults(document, message["payload"], payload)


def _schema_faults(document: Mapping[str, Any], schema: Mapping[str, Any], value: Any) -> list[str]:
    validator = Draft7Validator(
        {**schema, "components": document["components"]}
        if "$ref" not in schema
        else {"allOf": [schema], "components": document["components"]}
    )
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in validator.iter_errors(value)]
