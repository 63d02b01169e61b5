"""Text and images over HTTP on a whole stack: a classifier, embeddings and digits, each as its own library computes it.

Over keys and TLS; the embeddings also through the clients of OpenAI and LangChain, unmodified.
"""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton
from langchain_openai import OpenAIEmbeddings

from models.adding.addition import Addition, add
from tests.support.certificates import write_certificates
from tests.support.exports import (
    SENTENCES,
    WIDTH,
    ImageExport,
    TextExport,
    embedding_model,
    image_classifier,
    in_base64,
    text_classifier,
)
from tests.support.keyed_stack import KeyedStack, running_stack

pytestmark = pytest.mark.timeout(900)


@dataclass(frozen=True, kw_only=True)
class Served:
    """A running stack, and what it serves."""

    stack: KeyedStack
    reviews: TextExport
    sentences: TextExport
    digits: ImageExport

    def predict(self, model: str, instances: list[Any]) -> tuple[int, Any]:
        return self.stack.post("/v1/models/predict", {"model": model, "instances": instances, "timeout_s": 60})

    def openai(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(**self.access() | options)

    def access(self) -> dict[str, Any]:
        """How clients of OpenAI's call reach a server with keys and an authority of its own."""
        return {
            "base_url": f"{self.stack.api_url}/v1",
            "api_key": self.stack.admin_key,
            "http_client": httpx.Client(verify=self.stack.trust() or False),
        }


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("steps")
    store = folder / "models"
    reviews = text_classifier(folder / "exports" / "reviews")
    sentences = embedding_model(folder / "exports" / "sentences")
    digits = image_classifier(folder / "exports" / "digits")
    _add(store, "reviews", reviews.folder)
    _add(store, "sentences", sentences.folder)
    _add(store, "digits", digits.path, steps=digits.steps)
    with running_stack(
        folder, models_dir=store, settings={"INFERLANE_DEFAULT_MODEL": "reviews", **write_certificates(folder)}
    ) as stack:
        yield Served(stack=stack, reviews=reviews, sentences=sentences, digits=digits)


def _add(store: Path, name: str, source: Path, *, steps: Path | None = None) -> None:
    addition = Addition(
        source=str(source),
        model=name,
        version=None,
        models_dir=store,
        check=None,
        tolerance=1e-4,
        timeout_s=300,
        steps=steps,
    )
    add(addition, say=lambda _: None)


def test_text_is_classified_as_the_library_does(served: Served) -> None:
    status, answer = served.predict("reviews", list(SENTENCES))

    expected = served.reviews.scores(SENTENCES)
    names = np.array(["negative", "positive"])
    assert status == 200, answer
    assert [row["label"] for row in answer["predictions"]] == names[expected.argmax(axis=1)].tolist()
    np.testing.assert_allclose([row["probabilities"] for row in answer["predictions"]], expected, rtol=1e-4)


def test_a_version_is_described_by_its_requests_and_not_by_its_graph(served: Served) -> None:
    listed = {model["name"]: model for model in served.stack.call("/v1/models")["models"]}

    assert listed["reviews"]["versions"][0]["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert [output["name"] for output in listed["sentences"]["versions"][0]["outputs"]] == ["embedding", "tokens"]
    assert listed["reviews"]["classes"] == ["negative", "positive"]
    metadata = served.stack.call("/v2/models/digits")
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1, 1]}]
    assert [output["name"] for output in metadata["outputs"]] == ["probabilities", "label", "top_labels", "top_scores"]


def test_images_in_base64_are_classified_as_scikit_learn_does(served: Served) -> None:
    digits = served.digits

    status, answer = served.predict("digits", [in_base64(image) for image in digits.images])

    assert status == 200, answer
    expected = digits.classifier.predict_proba(digits.pixels)
    found = [row["probabilities"] for row in answer["predictions"]]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert [row["label"] for row in answer["predictions"]] == [str(label) for label in expected.argmax(axis=1)]
    assert [row["top_labels"][0] for row in answer["predictions"]] == [row["label"] for row in answer["predictions"]]


def test_raw_images_go_through_tritons_client_as_they_are(served: Served) -> None:
    digits = served.digits
    files = np.array([[image] for image in digits.images[:4]], object)
    image = triton.InferInput("image", list(files.shape), "BYTES")
    image.set_data_from_numpy(files, binary_data=True)

    trust = {"ssl": True, "ssl_options": {"ca_certs": str(served.stack.authority)}}
    address = f"localhost:{served.stack.api_port}"
    with triton.InferenceServerClient(address, network_timeout=120, **trust) as client:
        key = {"authorization": f"Bearer {served.stack.admin_key}"}
        found = client.infer("digits", [image], headers=key).as_numpy("label")

    assert found.tolist() == digits.classifier.predict(digits.pixels[:4]).tolist()


def test_raw_images_go_through_grpc_as_they_are(served: Served) -> None:
    digits = served.digits
    files = np.array([[image] for image in digits.images[:4]], object)
    image = triton_grpc.InferInput("image", list(files.shape), "BYTES")
    image.set_data_from_numpy(files)

    trust = {"ssl": True, "root_certificates": str(served.stack.authority)}
    with triton_grpc.InferenceServerClient(f"localhost:{served.stack.grpc_port}", **trust) as client:
        key = {"authorization": f"Bearer {served.stack.admin_key}"}
        found = client.infer("digits", [image], headers=key, client_timeout=120)

    assert found.as_numpy("label").tolist() == digits.classifier.predict(digits.pixels[:4]).tolist()


def test_a_file_that_is_no_image_fails_its_own_call_with_the_reason(served: Served) -> None:
    good = in_base64(served.digits.images[0])

    status, answer = served.predict("digits", [good, in_base64(b"no image")])

    assert (status, answer["code"]) == (422, "invalid_input")
    assert answer["detail"].startswith("row 1: input 'image': the file cannot be read as an image")
    assert served.predict("digits", [good])[0] == 200
    status, answer = served.predict("digits", ["no base64"])
    assert (status, answer["code"]) == (422, "invalid_input")


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openais_client_embeds_through_the_queue(served: Served, encoding: Any) -> None:
    asked = {} if encoding is None else {"encoding_format": encoding}

    answer = served.openai().embeddings.create(model="sentences", input=list(SENTENCES), **asked)

    vectors = [item.embedding for item in answer.data]
    if encoding == "base64":
        vectors = [np.frombuffer(base64.b64decode(str(vector)), "<f4").tolist() for vector in vectors]
    np.testing.assert_allclose(vectors, served.sentences.embeddings(SENTENCES), rtol=1e-4, atol=1e-5)
    tokens = sum(len(served.sentences.ids(text)) for text in SENTENCES)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    assert (answer.model, [item.index for item in answer.data]) == ("sentences", list(range(len(SENTENCES))))


@pytest.mark.parametrize("several", [False, True])
def test_tokens_of_the_models_own_tokenizer_are_embedded_as_their_text(served: Served, several: bool) -> None:
    ids = served.sentences.ids(SENTENCES[0])

    answer = served.openai().embeddings.create(
        model="sentences/v1", input=[ids, ids] if several else ids, dimensions=WIDTH, encoding_format="float"
    )

    expected = served.sentences.embeddings([SENTENCES[0]] * (2 if several else 1))
    np.testing.assert_allclose([item.embedding for item in answer.data], expected, rtol=1e-4, atol=1e-5)
    assert answer.usage.prompt_tokens == len(ids) * (2 if several else 1)


def test_langchain_embeds_documents_and_queries_through_the_queue(served: Served) -> None:
    embeddings = OpenAIEmbeddings(
        model="sentences",
        check_embedding_ctx_length=False,
        **served.access(),
    )

    documents, query = embeddings.embed_documents(list(SENTENCES)), embeddings.embed_query(SENTENCES[2])

    expected = served.sentences.embeddings(SENTENCES)
    np.testing.assert_allclose(documents, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(query, expected[2], rtol=1e-4, atol=1e-5)


def test_openais_client_lists_the_models(served: Served) -> None:
    assert sorted(model.id for model in served.openai().models.list()) == ["digits", "reviews", "sentences"]


def test_errors_reach_openais_client_in_its_shape(served: Served) -> None:
    client = served.openai(max_retries=0)

    with pytest.raises(openai.AuthenticationError, match="not known here"):
        served.openai(api_key="wrong", max_retries=0).embeddings.create(model="sentences", input="text")
    with pytest.raises(openai.NotFoundError, match="no model 'none'") as unknown:
        client.embeddings.create(model="none", input="text")
    with pytest.raises(openai.UnprocessableEntityError, match="embeds no text"):
        client.embeddings.create(model="digits", input="text")
    with pytest.raises(openai.UnprocessableEntityError, match="the embeddings of 'sentences' have 16 numbers"):
        client.embeddings.create(model="sentences", input="text", dimensions=8)
    with pytest.raises(openai.UnprocessableEntityError, match="the token 999999 is none of the model's") as refused:
        client.embeddings.create(model="sentences", input=[999_999])
    with pytest.raises(openai.UnprocessableEntityError, match="empty list"):
        client.embeddings.create(model="sentences", input=[])

    assert (unknown.value.code, unknown.value.type) == ("unknown_model", "invalid_request_error")
    assert refused.value.code == "invalid_input"
