"""Steps before and after a graph: what they make of arrays, of text and of images, and what they refuse."""

import io
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from inferlane.contracts.wire.row_texts import text_of
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError, RowsRefusedError
from models.steps.declared_steps import AfterStep, Steps
from models.steps.image_step import ImageStep
from models.steps.pooling_steps import FirstToken, MeanPool, Normalize
from models.steps.score_steps import Argmax, Select, Sigmoid, Softmax, Stage, Threshold, TopK
from models.steps.step_chain import StepChain
from models.steps.tokenizer_step import TokenizerStep
from tests.support.exports import SENTENCES, png_of, trained_tokenizer

LOGITS = np.array([[1.0, 3.0, -2.0], [1000.0, 999.0, 998.0]], np.float32)
PROBABILITIES = np.array([[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]], np.float32)


def spec(name: str, *shape: int, datatype: str = "FP32") -> TensorSpec:
    return TensorSpec(name=name, datatype=datatype, shape=shape)


def apply(step: AfterStep, **outputs: np.ndarray) -> dict[str, np.ndarray]:
    """Apply a step, and hold what it gives against what it says of it."""
    specs = {
        name: spec(name, -1, *array.shape[1:], datatype={2: "FP16", 4: "FP32", 8: "FP64"}[array.itemsize])
        for name, array in outputs.items()
    }
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    said = step.specs(Stage(specs, {"attention_mask": spec("attention_mask", -1, -1, datatype="INT64")})).outputs
    given = dict(step.apply(Stage(outputs, {"attention_mask": mask})).outputs)
    assert list(given) == list(said)
    for name, array in given.items():
        assert said[name].fits(array.shape[1:])
        assert array.dtype == said[name].dtype
    return given


def test_softmax_sums_to_one_and_does_not_overflow() -> None:
    given = apply(Softmax(), logits=LOGITS)["probabilities"]

    raised = np.exp(LOGITS.astype(np.float64) - LOGITS.max(axis=1, keepdims=True))
    np.testing.assert_allclose(given, raised / raised.sum(axis=1, keepdims=True), rtol=1e-6)


def test_half_precision_is_answered_in_single() -> None:
    assert apply(Softmax(), logits=LOGITS.astype(np.float16))["probabilities"].dtype == np.float32


def test_sigmoid_of_each_score_does_not_overflow() -> None:
    given = apply(Sigmoid(), logits=np.array([[-1000.0, 0.0, 1000.0]]))["probabilities"]

    assert given.tolist() == [[0.0, 0.5, 1.0]]


def test_argmax_adds_the_index_and_its_labels() -> None:
    step = Argmax(labels=("a", "b", "c"))

    assert apply(step, probabilities=PROBABILITIES)["label"].tolist() == [1, 0]


@pytest.mark.parametrize(
    ("step", "scores", "expected"),
    [
        (Threshold(value=0.6), np.array([[0.5], [0.7]]), [False, True]),
        (Threshold(value=0.6, labels=("no", "yes")), np.array([[0.5], [0.7]]), [0, 1]),
        (Threshold(value=0.4, column=2), PROBABILITIES, [False, False]),
        (Threshold(value=0.3, column=2, labels=("no", "yes")), PROBABILITIES, [0, 1]),
        (Threshold(value=0.3), PROBABILITIES, [[False, True, False], [True, False, True]]),
    ],
)
def test_a_threshold_is_a_boolean_or_a_label(step: AfterStep, scores: np.ndarray, expected: list[Any]) -> None:
    assert apply(step, probabilities=scores)["label"].tolist() == expected


def test_top_k_has_the_best_first() -> None:
    given = apply(TopK(k=2, labels=("a", "b", "c")), probabilities=PROBABILITIES)

    assert given["top_labels"].tolist() == [["b", "a"], ["a", "c"]]
    np.testing.assert_array_equal(given["top_scores"], np.array([[0.7, 0.2], [0.5, 0.4]], np.float32))
    assert apply(TopK(k=2), probabilities=PROBABILITIES)["top_labels"].tolist() == [[1, 0], [0, 2]]


def test_mean_pool_counts_only_what_the_mask_has() -> None:
    states = np.arange(12, dtype=np.float32).reshape(2, 3, 2)

    given = apply(MeanPool(), last_hidden_state=states)["embedding"]

    np.testing.assert_array_equal(given, [states[0, :2].mean(axis=0), states[1, 0]])
    np.testing.assert_array_equal(apply(FirstToken(), last_hidden_state=states)["embedding"], states[:, 0])


def test_normalized_vectors_have_the_length_one_and_zero_stays_zero() -> None:
    given = apply(Normalize(), embedding=np.array([[3.0, 4.0], [0.0, 0.0]]))["embedding"]

    assert given.tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_select_leaves_the_others_out() -> None:
    assert list(apply(Select(outputs=("b",)), a=LOGITS, b=LOGITS)) == ["b"]


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Softmax(input="scores"), "takes 'scores'; before it there are: logits, one, whole, states"),
        (Softmax(output="one"), "writes 'one', which is there already"),
        (Softmax(input="whole"), "takes real numbers"),
        (Argmax(input="one"), "use `threshold`"),
        (Argmax(input="logits", labels=("a", "b")), "2 labels for 3 scores"),
        (Argmax(input="logits", output="one"), "adds 'one', which is there already"),
        (Threshold(input="logits", column=3), "takes the column 3 of 3"),
        (Threshold(input="logits", labels=("no", "yes")), "name one as its `column`"),
        (Threshold(input="one", labels=("no", "yes", "more")), "3 labels for 2 scores"),
        (TopK(input="logits", k=4), "the best 4 of 3"),
        (MeanPool(input="states", mask="none"), "takes the mask 'none'; the inputs are: attention_mask"),
        (MeanPool(input="logits"), "takes real numbers with 2 axes"),
        (Select(outputs=("b",)), "takes 'b'"),
    ],
)
def test_a_step_that_does_not_fit_is_refused_with_the_reason(step: AfterStep, reason: str) -> None:
    outputs = {
        "logits": spec("logits", -1, 3),
        "one": spec("one", -1, 1),
        "whole": spec("whole", -1, 3, datatype="INT64"),
        "states": spec("states", -1, -1, 4),
    }
    stage = Stage(outputs, {"attention_mask": spec("attention_mask", -1, -1, datatype="INT64")})

    with pytest.raises(ConfigurationError, match=reason):
        step.specs(stage)


def test_a_misspelled_field_of_a_step_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="lables"):
        msgspec.convert({"kind": "argmax", "lables": []}, AfterStep)


def tokens(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(spec(name, -1, -1, datatype="INT64") for name in names or ("input_ids", "attention_mask"))


ECHO = Signature(inputs=tokens(), outputs=(spec("last_hidden_state", -1, -1, 1),), has_free_axes=True)


def text_chain(step: TokenizerStep | None = None, graph: Signature = ECHO) -> tuple[StepChain, Steps]:
    steps = Steps(graph=graph, before=(step or TokenizerStep(),), after=(MeanPool(),))
    return StepChain(steps, {"tokenizer.json": trained_tokenizer().to_str().encode()}), steps


def rows_of(*texts: str) -> dict[str, np.ndarray]:
    return {"text": np.array([[text] for text in texts], np.dtypes.StringDType())}


class EchoGraph:
    """A graph whose state of a token is its id; remembers what it was given."""

    def __init__(self) -> None:
        self.runs: list[dict[str, np.ndarray]] = []

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.runs.append(dict(inputs))
        return {"last_hidden_state": inputs["input_ids"][..., np.newaxis].astype(np.float32)}


def test_the_signature_of_a_version_is_that_of_the_request() -> None:
    _, steps = text_chain(TokenizerStep(count=True))

    public = steps.public()

    assert public.inputs == (TensorSpec(name="text", datatype="BYTES", shape=(-1, 1)),)
    assert [(each.name, each.shape) for each in public.outputs] == [("embedding", (-1, 1)), ("tokens", (-1,))]
    assert not public.has_free_axes


def test_texts_are_tokenized_like_one_by_one_and_come_back_in_their_order() -> None:
    chain, _ = text_chain()
    texts = [SENTENCES[0], "good", SENTENCES[1] * 5, "", "the end"]
    tokenizer, graph = trained_tokenizer(), EchoGraph()

    given = chain.run(rows_of(*texts), graph)["embedding"]

    expected = [np.mean(tokenizer.encode(text).ids) for text in texts]
    np.testing.assert_allclose(given.ravel(), expected, rtol=1e-6)


def test_texts_of_like_lengths_share_a_run() -> None:
    chain, _ = text_chain()
    graph = EchoGraph()

    chain.run(rows_of("good", SENTENCES[0] * 8, "bad", SENTENCES[1] * 8), graph)

    assert [len(run["input_ids"]) for run in graph.runs] == [2, 2]
    assert graph.runs[0]["input_ids"].shape[1] <= 16
    assert graph.runs[0]["attention_mask"].sum(axis=1).tolist() == [3, 3]


def test_long_text_is_cut_to_the_tokens_of_the_model() -> None:
    chain, _ = text_chain(TokenizerStep(max_length=4, count=True))
    graph = EchoGraph()

    given = chain.run(rows_of(SENTENCES[0]), graph)

    expected = trained_tokenizer().encode(SENTENCES[0]).ids
    # [CLS] and [SEP] stay around what is kept.
    assert graph.runs[0]["input_ids"].tolist() == [[*expected[:3], expected[-1]]]
    assert given["tokens"].tolist() == [4]


def test_a_graph_of_a_fixed_length_gets_rows_of_that_length() -> None:
    fixed = Signature(
        inputs=tuple(replace(each, shape=(-1, 8), datatype="INT32") for each in tokens()), outputs=ECHO.outputs
    )
    chain, _ = text_chain(TokenizerStep(pad_id=9), fixed)
    graph = EchoGraph()

    chain.run(rows_of("good"), graph)

    ids = trained_tokenizer().encode("good").ids
    assert graph.runs[0]["input_ids"].tolist() == [[*ids, *[9] * (8 - len(ids))]]
    assert graph.runs[0]["input_ids"].dtype == np.int32


def test_tokens_of_the_client_are_taken_as_they_are() -> None:
    chain, _ = text_chain(TokenizerStep(count=True))
    graph = EchoGraph()

    given = chain.run(rows_of(text_of([5, 6, 7]), "good"), graph)

    assert graph.runs[0]["input_ids"][0].tolist() == [5, 6, 7]
    assert given["tokens"].tolist() == [3, 3]


def test_rows_that_are_no_text_of_the_model_are_refused_and_named() -> None:
    chain, _ = text_chain(TokenizerStep(max_chars=20))

    with pytest.raises(RowsRefusedError, match=r"row 1: the token 100000 is none of the model's.*1 more") as caught:
        chain.run(rows_of("good", text_of([1, 100_000]), "x" * 21), EchoGraph())

    assert set(caught.value.reasons) == {1, 2}
    assert "the limit is 20" in caught.value.reasons[2]


def test_labels_of_steps_are_those_of_their_output() -> None:
    graph = Signature(inputs=(spec("input", -1, 4),), outputs=(spec("probabilities", -1, 3),))
    argmax = Argmax(labels=("a", "b", "c"))
    threshold = Threshold(output="over", column=0, labels=("no", "yes"))

    assert Steps(graph=graph, after=(argmax, threshold)).class_names == {
        "label": ("a", "b", "c"),
        "over": ("no", "yes"),
    }
    same = Steps(graph=graph, after=(argmax, TopK(k=2, labels=argmax.labels), Threshold(output="over", column=0)))
    assert [each.name for each in same.public().outputs] == [
        "probabilities",
        "label",
        "top_labels",
        "top_scores",
        "over",
    ]


def test_a_number_of_tokens_is_no_index_of_a_class() -> None:
    _, steps = text_chain(TokenizerStep(count=True))

    assert steps.public().outputs[-1] == TensorSpec(name="tokens", datatype="UINT32", shape=(-1,))


def test_a_free_axis_beside_a_tokenizer_is_refused() -> None:
    graph = Signature(inputs=tokens("input_ids", "position_ids"), outputs=ECHO.outputs)

    with pytest.raises(ConfigurationError, match=r"'position_ids' has the shape \[-1, -1\]"):
        Steps(graph=graph, before=(TokenizerStep(),), after=(MeanPool(),)).public()
    with pytest.raises(ConfigurationError, match=r"'last_hidden_state'.*Pool it"):
        Steps(graph=ECHO, before=(TokenizerStep(),)).public()


def test_a_file_that_holds_no_tokenizer_is_a_fault_of_the_version() -> None:
    steps = Steps(graph=ECHO, before=(TokenizerStep(),), after=(MeanPool(),))

    with pytest.raises(ConfigurationError, match=r"tokenizer.json holds no tokenizer"):
        StepChain(steps, {"tokenizer.json": b"{}"})


PIXELS = np.arange(12 * 8 * 3, dtype=np.uint8).reshape(12, 8, 3)


def image_chain(step: ImageStep, *shape: int, datatype: str = "FP32") -> StepChain:
    graph = Signature(inputs=(spec(step.output, -1, *shape, datatype=datatype),), outputs=(spec("out", -1, 1),))
    steps = Steps(graph=graph, before=(step,))
    steps.public()
    return StepChain(steps, {})


def pixels_of(chain: StepChain, step: ImageStep, *files: bytes) -> np.ndarray:
    seen = {}
    array = np.empty((len(files), 1), object)
    array[:, 0] = files
    chain.run({"image": array}, lambda inputs: seen.update(inputs) or {})
    return seen[step.output]


def test_an_image_is_scaled_and_normalised_as_pillow_and_numpy_do() -> None:
    step = ImageStep(size=(6, 4), mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.3), resample="bicubic")
    chain = image_chain(step, 3, 6, 4)

    given = pixels_of(chain, step, png_of(PIXELS))

    scaled = Image.fromarray(PIXELS).resize((4, 6), Image.Resampling.BICUBIC)
    expected = (np.asarray(scaled) / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.4, 0.3]
    np.testing.assert_allclose(given[0], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


def test_the_middle_is_cut_out_after_the_shorter_side_is_scaled() -> None:
    step = ImageStep(size=(4, 4), shortest_edge=8, layout="NHWC", scale=1)
    chain = image_chain(step, 4, 4, 3)

    given = pixels_of(chain, step, png_of(PIXELS))

    np.testing.assert_array_equal(given[0], PIXELS[4:8, 2:6])


def test_a_graph_of_flat_rows_gets_the_pixels_in_their_order() -> None:
    step = ImageStep(size=(12, 8), channels=1, scale=1)
    chain = image_chain(step, 96, datatype="UINT8")

    given = pixels_of(chain, step, png_of(PIXELS[:, :, 0]))

    assert given.dtype == np.uint8
    np.testing.assert_array_equal(given[0], PIXELS[:, :, 0].ravel())


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    step = ImageStep(size=(8, 12), scale=1, layout="NHWC")
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(file, "PNG", exif=exif)

    given = pixels_of(image_chain(step, 8, 12, 3), step, file.getvalue())

    np.testing.assert_array_equal(given[0], np.rot90(PIXELS, -1))


def bomb() -> bytes:
    """A small file with a large image of one colour."""
    file = io.BytesIO()
    Image.new("L", (6_000, 6_000)).save(file, "PNG")
    return file.getvalue()


def strip() -> bytes:
    file = io.BytesIO()
    Image.new("L", (1, 60_000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read as an image"),
        (b"no image", "cannot be read as an image"),
        (png_of(PIXELS)[:60], "cannot be read as an image"),
        (bytes(5_000_000), "has 5000000 bytes, the limit is 4000000"),
        (bomb(), "6000 x 6000 pixels, the limit is 25000000"),
        (strip(), "shorter side scaled to 64 has 64 x 3840000 pixels"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "cannot be read as an image"),
    ],
)
def test_an_image_that_cannot_be_read_is_refused_by_its_row(content: bytes, reason: str) -> None:
    step = ImageStep(size=(4, 4), shortest_edge=64, max_bytes=4_000_000)

    with pytest.raises(RowsRefusedError, match=f"row 1: input 'image': .*{reason}") as caught:
        pixels_of(image_chain(step, 3, 4, 4), step, png_of(PIXELS), content)

    assert set(caught.value.reasons) == {1}


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (ImageStep(output="other"), "fills the input 'other'"),
        (ImageStep(size=(4, 4)), r"makes \[3, 4, 4\]"),
        (ImageStep(size=(6, 4), std=(1.0, 0.0, 1.0)), "no `std` of 0"),
        (ImageStep(size=(6, 4), mean=(1.0, 0.0)), "`mean` and `std` for each of its 3 channels"),
    ],
)
def test_an_image_step_that_does_not_fit_the_graph_is_refused(step: ImageStep, reason: str) -> None:
    graph = Signature(inputs=(spec("pixel_values", -1, 3, 6, 4),), outputs=(spec("out", -1, 1),))

    with pytest.raises(ConfigurationError, match=reason):
        Steps(graph=graph, before=(step,)).public()


@pytest.mark.parametrize(
    ("module", "extra", "step"), [("tokenizers", "text", TokenizerStep()), ("PIL", "image", ImageStep(size=(6, 4)))]
)
def test_a_missing_library_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str, extra: str, step: TokenizerStep | ImageStep
) -> None:
    pixels = Signature(inputs=(spec("pixel_values", -1, 3, 6, 4),), outputs=(spec("out", -1, 1),))
    graph = ECHO if isinstance(step, TokenizerStep) else pixels
    monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ConfigurationError, match=rf"pip install 'inferlane\[{extra}\]'"):
        StepChain(Steps(graph=graph, before=(step,)), {"tokenizer.json": b"{}"})
