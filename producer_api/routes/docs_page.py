"""`GET /docs`: the OpenAPI document as a page, which loads nothing from other hosts; and the document of the topics."""

from http import HTTPStatus
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from inferlane.runtime.topic_document import topic_document
from producer_api.http.auth import DOCS_ASSETS
from producer_api.routes.dependencies import AppServices

router = APIRouter(include_in_schema=False)

_ASSETS = Path(fastapi_offline.__file__).with_name("static")
# Users type keys into this page, so it may load from and call this API only. Its own script sets styles.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"content-security-policy": _POLICY, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Inferlane</title>
<link rel="icon" href="docs/favicon.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""


@router.get("/asyncapi.json")
async def asyncapi(services: AppServices) -> Response:
    """The AsyncAPI document of the topics. It names the brokers, so that it needs a key where there are keys."""
    return Response(
        topic_document(services.settings.kafka, services.settings.stack.names), media_type="application/json"
    )


@router.get("/docs")
async def page() -> Response:
    """The page."""
    return Response(_PAGE, media_type="text/html", headers=_HEADERS)


@router.get("/docs/start.js")
async def start() -> Response:
    """The start script; it is a separate file, so that the policy allows no inline scripts."""
    return Response(_START, media_type="text/javascript", headers=_HEADERS)


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    """A file of Swagger UI."""
    if name not in DOCS_ASSETS:
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return FileResponse(_ASSETS / name, media_type=DOCS_ASSETS[name], headers=_HEADERS)
