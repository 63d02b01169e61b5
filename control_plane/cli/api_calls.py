"""Calls of our own commands to the API, with the key of the settings."""

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from inferlane.errors import ConfigurationError, InferlaneError, InvalidRequestError, UnavailableError, clipped

if TYPE_CHECKING:
    import urllib.error

    from inferlane.runtime.config import Settings

# Longer than the API takes to say that it could not do what was asked.
_WITHIN_S = 30.0
# What the ops port of another process says of a path of the API.
_NO_SUCH_PATH = "not_found"


class ApiCalls:
    """Calls of one API."""

    def __init__(self, settings: "Settings", *, within_s: float = _WITHIN_S) -> None:
        # Loaded by the commands that call (PLC0415).
        import urllib.request  # noqa: PLC0415

        from inferlane.runtime.http.api_address import ApiAddress  # noqa: PLC0415

        address = ApiAddress(settings.api, settings.client)
        self._url = address.url
        self._key = settings.client.key
        self._within_s = within_s
        # A proxy of the environment is not for a server whose address we were given.
        direct = urllib.request.ProxyHandler({})
        self._open = urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=address.tls())).open

    def get(self, path: str) -> Any:
        """The body of a GET.

        Raises:
            ConfigurationError: another server answers.
            InvalidRequestError: the API refuses it; the message is the API's.
            UnavailableError: the API does not answer, or cannot do it now.
        """
        return self._call("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        """The body of the answer to a POST. Raises as `get` does."""
        return self._call("POST", path, json.dumps(body).encode())

    def _call(self, method: str, path: str, body: bytes | None) -> Any:
        import urllib.error  # noqa: PLC0415 - as above
        import urllib.request  # noqa: PLC0415 - as above

        request = urllib.request.Request(self._url + path, data=body, method=method)  # noqa: S310 - the operator's own server
        request.add_header("content-type", "application/json")
        if self._key is not None:
            request.add_header("authorization", f"Bearer {self._key.get_secret_value()}")
        try:
            with self._open(request, timeout=self._within_s) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise _refusal(error, self._url) from error
        except (OSError, ValueError) as error:
            raise UnavailableError(
                f"no answer of the API at {self._url}: {clipped(str(error))}; `inferlane status` says what runs"
            ) from error


def _refusal(error: "urllib.error.HTTPError", url: str) -> InferlaneError:
    try:
        problem = json.loads(error.read(64 * 1024))
        code, detail = problem["code"], str(problem["detail"])
    except (OSError, ValueError, KeyError, TypeError):
        code, detail = _NO_SUCH_PATH, f"the API answers {error.code}"
    if code == _NO_SUCH_PATH and error.code == HTTPStatus.NOT_FOUND:
        return ConfigurationError(
            f"what answers at {url} is no API of Inferlane: it does not know the path. INFERLANE_API_URL, or "
            "INFERLANE_API_HOST and INFERLANE_API_PORT, say where the API is; `inferlane status` has its port"
        )
    if error.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        detail += ". The key of this command is that of INFERLANE_API_KEY; `inferlane keys create` makes one"
    kind = UnavailableError if error.code >= 500 else InvalidRequestError  # noqa: PLR2004 - server errors
    return kind(detail)
