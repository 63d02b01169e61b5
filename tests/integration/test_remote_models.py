"""`inferlane models add URL`: from a real HTTP server, a server with S3's interface, and MLflow's registry."""

import functools
import hashlib
import http.server
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from moto.server import ThreadedMotoServer
from obstore.store import from_url

from inferlane.errors import ConfigurationError
from models import object_stores
from models.adding.addition import Added, Addition, add
from models.adding.remote import fetch_source
from models.catalog_entries import entry_of_store
from models.pulling import pull
from models.store_reader import load_catalog
from models.verify import verify_version
from tests.support import graphs
from tests.support.fakes.stores import write_tiny_store

MODEL = graphs.plain().SerializeToString()
BUCKET = "models"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing on the terminal of the tests."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the URL that it is served under."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


class _Halting(_Quiet):
    """Sends a file in parts, with a wait between them; of what is called `stalls`, the first part alone."""

    released = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(MODEL)))
        self.send_header("Last-Modified", "Thu, 26 Nov 2026 00:00:00 GMT")
        self.end_headers()
        part_bytes = len(MODEL) // 5
        for start in range(0, len(MODEL), part_bytes):
            self.wfile.write(MODEL[start : start + part_bytes])
            self.wfile.flush()
            if self.released.wait(60 if "stalls" in self.path else _PAUSE_S):
                return


_PAUSE_S, _SILENCE_S = 0.4, 1.2


def test_a_download_may_take_long_and_not_stand_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the limits of time: one of silence, and none that a large file would reach."""
    monkeypatch.setitem(object_stores.TIME_LIMITS, "read_timeout", f"{_SILENCE_S}s")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Halting)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        for name in ("slow", "stalls"):
            (tmp_path / name).mkdir()
        # All parts take longer than one silence may.
        found = fetch_source(f"{url}/slow/m.onnx", tmp_path / "slow", limit_bytes=len(MODEL))
        assert found.path.read_bytes() == MODEL
        with pytest.raises(ConfigurationError, match="cannot be fetched"):
            fetch_source(f"{url}/stalls/m.onnx", tmp_path / "stalls", limit_bytes=len(MODEL))
    finally:
        _Halting.released.set()
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty bucket, with the credentials for it in the environment."""
    for name, value in {
        "ENDPOINT_URL": s3_server,
        "ALLOW_HTTP": "true",
        "ACCESS_KEY_ID": "anybody",
        "SECRET_ACCESS_KEY": "anything",
        "REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    send("PUT", f"{s3_server}/{BUCKET}")
    yield f"s3://{BUCKET}"
    send("POST", f"{s3_server}/moto-api/reset")


def send(method: str, url: str) -> None:
    urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10).close()  # noqa: S310 - our own server


def added(folder: Path, source: str, **options: Any) -> Added:
    about: dict[str, Any] = {
        "source": source,
        "model": "net",
        "version": None,
        "models_dir": folder / "store",
        "check": None,
        "tolerance": 1e-4,
        "timeout_s": 120.0,
    }
    return add(Addition(**(about | options)), say=lambda _: None)


def verified(folder: Path) -> Path:
    version = load_catalog(folder / "store", default_model="net").model().version("v1")
    verify_version(version)
    return version.path.parent


def test_a_file_of_a_web_server_is_added_with_its_weights_and_its_url_in_the_report(
    tmp_path: Path, web: tuple[Path, str]
) -> None:
    folder, url = web
    (folder / "team").mkdir()
    (folder / "team" / "net.onnx").write_bytes(graphs.weighted(folder / "team" / "net.onnx").SerializeToString())
    digest = hashlib.sha256((folder / "team" / "net.onnx").read_bytes()).hexdigest()

    report = added(tmp_path, f"{url}/team/net.onnx", digest=f"sha256:{digest}").report

    assert report.source == f"{url}/team/net.onnx"
    assert sorted(path.name for path in verified(tmp_path).iterdir()) == [
        "model.onnx",
        "report.json",
        "version.toml",
        "weights.bin",
    ]


@pytest.mark.parametrize(
    ("source", "options", "reason"),
    [
        ("{url}/nowhere.onnx", {}, "nowhere.onnx' cannot be fetched: Object at location nowhere.onnx not found"),
        ("{url}/net.onnx", {"limit_bytes": 10}, "limit; raise it with --max-mib"),
        ("{url}/net.onnx", {"digest": f"sha256:{'0' * 64}"}, "net.onnx has the digest sha256:.*it is another file"),
        ("{url}/net.onnx", {"digest": "abc"}, "is no digest"),
        ("{url}/team", {}, "over HTTP name the file itself"),
        ("{url}/net.onnx?token=secret", {}, "Credentials come from the environment"),
        ("{url}/half.onnx", {}, "half.onnx is no ONNX model"),
        ("{url}/outside.onnx", {}, "outside of"),
        ("http://127.0.0.1:9/net.onnx", {}, "cannot be fetched"),
        ("ftp://127.0.0.1/net.onnx", {}, "the scheme 'ftp' is not known; use one of http, https, az, gs, s3"),
    ],
)
def test_what_cannot_be_downloaded_ends_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, web: tuple[Path, str], source: str, options: dict[str, Any], reason: str
) -> None:
    folder, url = web
    (folder / "net.onnx").write_bytes(MODEL)
    (folder / "half.onnx").write_bytes(MODEL[: len(MODEL) // 2])
    (folder / "outside.onnx").write_bytes(
        graphs.weighted(folder / "outside.onnx", location="../secret.bin").SerializeToString()
    )

    with pytest.raises(ConfigurationError, match=reason) as refused:
        added(tmp_path, source.format(url=url), **options)

    assert "secret" not in str(refused.value).replace("secret.bin", "")
    assert "/downloaded" not in str(refused.value)
    assert list((tmp_path / "store").iterdir()) == []


@pytest.mark.parametrize("named", ["s3://models/team/net", "s3://models/team/net/model.onnx"])
def test_a_folder_or_a_file_of_an_object_store_is_added(tmp_path: Path, s3: str, named: str) -> None:
    bucket = from_url(s3)
    (tmp_path / "model.onnx").write_bytes(graphs.weighted(tmp_path / "model.onnx").SerializeToString())
    for name in ("model.onnx", "weights.bin"):
        bucket.put(f"team/net/{name}", tmp_path / name)
    bucket.put("team/net/tokenizer.json", b"{}")

    added(tmp_path, named)

    names = {path.name for path in verified(tmp_path).iterdir()}
    assert {"model.onnx", "weights.bin"} <= names
    assert ("tokenizer.json" in names) == named.endswith("net")


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("s3://models/team/nothing", "holds no file"),
        ("s3://models/net.onnx", "cannot be fetched: Object at location net.onnx not found"),
        ("s3://nowhere/net.onnx", "cannot be fetched"),
    ],
)
def test_what_an_object_store_has_not_is_refused(tmp_path: Path, s3: str, named: str, reason: str) -> None:
    assert s3

    with pytest.raises(ConfigurationError, match=reason):
        added(tmp_path, named)

    assert list((tmp_path / "store").iterdir()) == []


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's registry in a folder, with its client."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", (tmp_path / "mlruns").as_uri())
    import mlflow  # noqa: PLC0415 - takes seconds, and reads the environment

    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    mlflow.set_registry_uri((tmp_path / "mlruns").as_uri())
    client = mlflow.MlflowClient()
    client.create_registered_model("fraud")
    return client


def registered(registry: Any, home: Path, flavors: dict[str, Any]) -> str:
    """The version that a model with these flavors got in the registry."""
    home.mkdir()
    (home / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))
    (home / "net.onnx").write_bytes(MODEL)
    (home / "model.pkl").write_bytes(b"")
    return str(registry.create_model_version("fraud", source=home.as_uri()).version)


# One test: mlflow takes seconds to be imported, and each process of the tests would pay for it.
def test_mlflow_models_are_added_by_the_file_that_their_flavor_names(tmp_path: Path, registry: Any) -> None:
    served = {"python_function": {"loader_module": "mlflow.onnx"}, "onnx": {"data": "net.onnx"}}
    version = registered(registry, tmp_path / "first", served)
    registry.set_registered_model_alias("fraud", "champion", version)

    report = added(tmp_path, "models:/fraud@champion").report

    assert report.source == "models:/fraud@champion"
    assert (verified(tmp_path) / "model.onnx").read_bytes() == MODEL
    for number, (flavors, reason) in enumerate(
        [
            ({"sklearn": {"pickled_model": "model.pkl"}}, "is a pickle"),
            ({"spark": {}}, "with the flavors spark; one of onnx, xgboost"),
            ({"onnx": {"data": "../../net.onnx"}}, "with the flavors onnx"),
        ]
    ):
        refused = registered(registry, tmp_path / f"refused{number}", flavors)
        with pytest.raises(ConfigurationError, match=reason):
            added(tmp_path, f"models:/fraud/{refused}")
    with pytest.raises(ConfigurationError, match=r"cannot be fetched: .*nobody"):
        added(tmp_path, "models:/fraud@nobody")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["net"]


def test_a_worker_pulls_a_version_from_an_object_store_and_compares_its_digest(tmp_path: Path, s3: str) -> None:
    write_tiny_store(tmp_path / "shared")
    entry = entry_of_store(tmp_path / "shared", "tiny", "v1", generation=1, default_since=1)
    bucket = from_url(f"{s3}/versions")
    for path in (tmp_path / "shared" / "tiny" / "v1").iterdir():
        bucket.put(path.name, path.read_bytes())
    told = msgspec.structs.replace(entry, location=f"{s3}/versions")

    version = pull(told, tmp_path / "pulled")

    verify_version(version)
    assert version.path.parent == tmp_path / "pulled" / entry.digest.removeprefix("sha256:")
    bucket.put("model.onnx", MODEL)
    with pytest.raises(ConfigurationError, match=r"version\.toml says"):
        pull(told, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []
