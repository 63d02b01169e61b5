"""The page of the documents loads nothing from elsewhere; bad weights cost no more than their first fault."""

import re
import time

import pytest
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute

from inferlane.errors import DecodeError
from inferlane.runtime.ops import Exposition
from producer_api.app import ROUTE_MODULES
from producer_api.http.asgi import allowed_methods
from producer_api.http.auth import DOCS_ASSETS, DOCS_PATHS, required_scope
from producer_api.http.error_responses import InvalidParameterError
from producer_api.http.schemas import MAX_WEIGHTS, Prediction, SplitInfo
from producer_api.routes import docs_page, operations, predictions, served_models
from producer_api.routes.dependencies import refuse_repeated
from producer_api.routes.served_models import _change_of


async def test_the_page_loads_only_files_of_this_api_that_are_open_to_all() -> None:
    page = await docs_page.page()
    text = bytes(page.body).decode()
    loaded = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(loaded) == 4
    for path in loaded:
        assert required_scope("GET", f"/{path}") is None
        assert f"/{path}" in DOCS_PATHS
    assert "default-src 'none'; script-src 'self';" in page.headers["content-security-policy"]
    assert re.search(r"<script(?![^>]*src=)", text) is None


@pytest.mark.parametrize("name", DOCS_ASSETS)
async def test_every_file_of_the_page_is_there(name: str) -> None:
    assert (docs_page._ASSETS / name).is_file()
    assert (await docs_page.asset(name)).headers["x-content-type-options"] == "nosniff"


def test_allow_names_the_methods_of_all_routes_of_a_resource() -> None:
    routes = [*served_models.router.routes, *predictions.router.routes]
    assert allowed_methods(routes, "/v1/traffic-split") == ["GET", "HEAD", "OPTIONS", "POST"]
    assert allowed_methods(routes, "/v1/predictions/x") == ["DELETE", "GET", "HEAD", "OPTIONS"]
    assert allowed_methods(routes, "/v1/traffic-split/") == []


def test_every_route_that_answers_with_one_shape_writes_its_empty_fields_alike() -> None:
    forms: dict[object, set[tuple[bool, bool, bool]]] = {}
    for route in (route for module in ROUTE_MODULES for route in module.router.routes):
        if isinstance(route, APIRoute) and route.response_model is not None:
            form = (
                route.response_model_exclude_none,
                route.response_model_exclude_unset,
                route.response_model_exclude_defaults,
            )
            forms.setdefault(route.response_model, set()).add(form)
    assert {SplitInfo, Prediction} <= forms.keys()
    assert {shape: form for shape, form in forms.items() if len(form) > 1} == {}


def test_weights_of_the_default_model_and_of_a_named_one() -> None:
    assert _change_of(b'{"v1": 90, "v2": 0.5}').weights == {"v1": 90.0, "v2": 0.5}
    named = _change_of(b'{"model": "digits", "weights": {"v1": 1}}')
    assert (named.model, named.weights) == ("digits", {"v1": 1.0})
    assert _change_of(b'{"weights": 1}').weights == {"weights": 1.0}


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b"1",
        b'{"v1": -1}',
        b'{"v1": "1"}',
        b'{"v1": true}',
        b'{"v1": 1e10}',
        b'{"v1": null}',
        b'{"weights": {}}',
        b'{"weights": {"v1": 1}, "more": 1}',
        b'{"model": 1, "weights": {"v1": 1}}',
        b"{%s}" % b",".join(b'"v%d": 1' % number for number in range(MAX_WEIGHTS + 1)),
        b"{%s}" % b",".join(b'"%s": -1' % (b"v" * 1000) for _ in range(1000)),
    ],
)
def test_what_holds_no_weights_is_told_so_in_a_line(body: bytes) -> None:
    """Guards the limit on what is said and on the work: the first fault ends it."""
    with pytest.raises(InvalidParameterError) as refused:
        _change_of(body)
    assert len(str(refused.value)) < 600


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"v1": 1, "v2": -1}', "the weight of 'v2' is -1; it looks like"),
        (b'{"v1": 1, "v2": 1e10}', "the weight of 'v2' is 1e10; it looks like"),
        (b'{"model": "iris", "weights": {"v1": "much"}}', "the weight of 'v1' is \"much\"; it looks like"),
        (b'{"model": "iris"}', 'it has "model" and no "weights"; it looks like'),
        (b'{"model": "iris", "weights": [1]}', '"weights" is [1], and must be an object; it looks like'),
        (b'{"weights": {"v1": 1}, "force": 1}', "Expected `bool`, got `int` - at `$.force`; it looks like"),
    ],
)
def test_a_weight_that_is_none_is_named_with_its_version_and_value(body: bytes, says: str) -> None:
    with pytest.raises(InvalidParameterError) as refused:
        _change_of(body)
    assert f"the body holds no weights: {says}" in str(refused.value)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"v1": NaN}', b"{'v1': 1}"])
def test_what_is_no_json_is_told_so(body: bytes) -> None:
    with pytest.raises(DecodeError):
        _change_of(body)


def test_metrics_are_written_anew_once_twenty_times_their_cost_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards `_fresh_until_s`; each call writes them when it is taken out."""
    now_s, written = [100.0], [0]

    def write() -> bytes:
        now_s[0] += 0.01
        written[0] += 1
        return b"%d" % written[0]

    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    exposition = Exposition(write)
    assert [exposition.text(), exposition.text()] == [b"1", b"1"]
    now_s[0] += 0.19
    assert exposition.text() == b"1"
    now_s[0] += 0.02
    assert exposition.text() == b"2"


@pytest.mark.parametrize(
    "body",
    [
        b'{"v1": 1, "v2": 1, "v1": 0}',
        b'{"v1": 1, "\\u00761": 0}',
        b'{"weights": {"v1": 1, "v1": 0}}',
        b'{"model": "iris", "model": "digits", "weights": {"v1": 1}}',
        b'{"model": "iris", "weights": {"v1": 1}, "weights": {"v2": 1}}',
    ],
)
def test_a_field_that_is_there_twice_changes_no_split(body: bytes) -> None:
    """Guards `refuse_repeats` for the split: the last one won, and another model's split was changed."""
    with pytest.raises(DecodeError, match="twice"):
        _change_of(body)


@pytest.mark.parametrize(
    "body", [b'{"model": "a\\"b: ", "weights": {"a\\": ": 1}}', b'{"model": null, "weights": {"v": 1}}']
)
def test_quotes_in_names_are_no_fields(body: bytes) -> None:
    assert len(_change_of(body).weights) == 1


@pytest.mark.parametrize("query", [b"model=iris&model=digits", b"model=&model=iris", b"a=1&%61=2"])
async def test_a_parameter_that_is_there_twice_is_refused(query: bytes) -> None:
    with pytest.raises(InvalidParameterError, match="2 times"):
        await refuse_repeated(Request({"type": "http", "query_string": query}))


@pytest.mark.parametrize("query", [b"", b"model=iris", b"model=iris&window_s=60", b"source=a=b&wait_s=1", b"a=%ff&b=1"])
async def test_parameters_that_are_there_once_pass(query: bytes) -> None:
    await refuse_repeated(Request({"type": "http", "query_string": query}))


@pytest.mark.parametrize("router", [served_models.router, predictions.router, operations.router])
def test_every_call_with_parameters_refuses_repeated_ones(router: APIRouter) -> None:
    with_parameters = [route for route in router.routes if isinstance(route, APIRoute) and route.dependant.query_params]
    assert with_parameters
    for route in with_parameters:
        assert refuse_repeated in [dependency.dependency for dependency in route.dependencies]
