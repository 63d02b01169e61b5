"""What spans say, in the names of OpenTelemetry's semantic conventions for messaging and in our own."""


def message_attributes(topic: str, request_id: str) -> dict[str, str]:
    """Of a span that sends or takes the record of a request."""
    return {
        "messaging.system": "kafka",
        "messaging.destination.name": topic,
        "messaging.message.id": request_id,
    }


def version_attributes(model: str, version: str) -> dict[str, str]:
    """Of a span that knows who serves the request."""
    return {"inferlane.model": model, "inferlane.version": version}
