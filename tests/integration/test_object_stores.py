"""`inferlane models add gs://…` and `az://…`: from servers that speak the few calls of Google's and Azure's stores."""

import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from inferlane.errors import ConfigurationError
from tests.integration.test_remote_models import MODEL, added, verified
from tests.support import graphs

pytestmark = pytest.mark.timeout(120)

_DATE = formatdate(0, usegmt=True)
# Source: https://learn.microsoft.com/azure/storage/common/storage-use-azurite, a name that everybody knows.
_ACCOUNT = "devstoreaccount1"


def _listed_by_google(names: list[str]) -> str:
    """Source: https://cloud.google.com/storage/docs/xml-api/get-bucket-list."""
    of_each = "".join(
        f"<Contents><Key>{name}</Key><LastModified>1970-01-01T00:00:00.000Z</LastModified><ETag>&quot;1&quot;</ETag>"
        "<Size>1</Size></Contents>"
        for name in names
    )
    return f'<?xml version="1.0"?><ListBucketResult>{of_each}</ListBucketResult>'


def _listed_by_azure(names: list[str]) -> str:
    """Source: https://learn.microsoft.com/rest/api/storageservices/list-blobs."""
    of_each = "".join(
        f"<Blob><Name>{name}</Name><Properties><Last-Modified>{_DATE}</Last-Modified><Content-Length>1"
        "</Content-Length><Content-Type>application/octet-stream</Content-Type><Etag>1</Etag></Properties></Blob>"
        for name in names
    )
    return f'<?xml version="1.0"?><EnumerationResults><Blobs>{of_each}</Blobs><NextMarker/></EnumerationResults>'


@contextmanager
def object_server(bucket: str, objects: Mapping[str, bytes], listed: Callable[[list[str]], str]) -> Iterator[str]:
    """The URL of a server with one bucket, whose path is `bucket`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            name = unquote(parts.path).removeprefix(bucket).strip("/")
            if not name and "prefix" in (asked := parse_qs(parts.query)):
                found = [each for each in objects if each.startswith(asked["prefix"][0])]
                self._answer(200, listed(found).encode())
            else:
                self._answer(
                    200 if name in objects else 404, objects.get(name, b"<Error><Code>NoSuchKey</Code></Error>")
                )

        def _answer(self, status: int, content: bytes) -> None:
            self.send_response(status)
            for header in ("Content-Length", str(len(content))), ("ETag", '"1"'), ("Last-Modified", _DATE):
                self.send_header(*header)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing on the terminal of the tests."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


def _for_google(url: str) -> dict[str, str]:
    account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(account), "GOOGLE_ALLOW_HTTP": "true"}


def _for_azure(url: str) -> dict[str, str]:
    return {
        "AZURE_STORAGE_ACCOUNT_NAME": _ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": base64.b64encode(b"a key").decode(),
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURITE_BLOB_STORAGE_URL": url,
        "AZURE_ALLOW_HTTP": "true",
    }


@pytest.fixture(params=["gs", "az"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The URL of a bucket and its objects, which a test writes; how to reach it is in the environment."""
    objects: dict[str, bytes] = {}
    is_google = request.param == "gs"
    bucket = "/models" if is_google else f"/{_ACCOUNT}/models"
    with object_server(bucket, objects, _listed_by_google if is_google else _listed_by_azure) as url:
        for name, value in (_for_google if is_google else _for_azure)(url).items():
            monkeypatch.setenv(name, value)
        yield f"{request.param}://models", objects


def test_a_file_of_an_object_store_is_added_with_its_weights(
    tmp_path: Any, store: tuple[str, dict[str, bytes]]
) -> None:
    url, objects = store
    objects["team/net.onnx"] = graphs.weighted(tmp_path / "net.onnx").SerializeToString()
    objects["team/weights.bin"] = (tmp_path / "weights.bin").read_bytes()

    assert added(tmp_path, f"{url}/team/net.onnx").report.source == f"{url}/team/net.onnx"
    assert (verified(tmp_path) / "weights.bin").read_bytes() == objects["team/weights.bin"]


def test_a_folder_of_an_object_store_is_added_with_what_goes_with_it(
    tmp_path: Any, store: tuple[str, dict[str, bytes]]
) -> None:
    url, objects = store
    objects |= {"export/model.onnx": MODEL, "export/config.json": b"{}", "other/model.onnx": b"another"}

    added(tmp_path, f"{url}/export")

    assert {path.name for path in verified(tmp_path).iterdir()} >= {"model.onnx", "config.json"}


def test_what_an_object_store_does_not_have_ends_in_one_sentence(
    tmp_path: Any, store: tuple[str, dict[str, bytes]]
) -> None:
    url, _ = store

    with pytest.raises(
        ConfigurationError, match=r"net\.onnx' cannot be fetched: Object at location net\.onnx not found"
    ):
        added(tmp_path, f"{url}/net.onnx")
    with pytest.raises(ConfigurationError, match="holds no file"):
        added(tmp_path, f"{url}/empty")
