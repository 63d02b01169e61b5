"""The step `image`: a JPEG, PNG, WebP or BMP file to the numbers that the model was trained with."""

import io
import math
from collections.abc import MutableMapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from inferlane.contracts.wire.tensors import Signature, TensorSpec, numpy_dtype
from inferlane.errors import ConfigurationError, clipped

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_MODES = {1: "L", 3: "RGB"}
# Sizes of the images that a version is tried with: width and height.
_SAMPLES = ((48, 32), (1, 1), (32, 48), (96, 96))
_SEED = 20_261
_Side = Annotated[int, msgspec.Meta(ge=1, le=8_192)]


class ImageStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="image"):
    """How the image of a row becomes an input of the graph: `(value of 0 to 255 * scale - mean) / std`."""

    # What the input with the file is called, and the input of the graph that it fills.
    input: Annotated[str, msgspec.Meta(min_length=1)] = "image"
    output: Annotated[str, msgspec.Meta(min_length=1)] = "pixel_values"
    # Height and width.
    size: tuple[_Side, _Side] = (224, 224)
    # The shorter side is scaled to it and the middle of `size` cut out; without it, the image is scaled to `size`.
    shortest_edge: _Side | None = None
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    # Grey or red, green and blue.
    channels: Literal[1, 3] = 3
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    scale: float = 1 / 255
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    # Of a file, and of the image in it before it is scaled: a small file may hold a huge image.
    max_bytes: Annotated[int, msgspec.Meta(ge=1)] = 8 * 1024 * 1024
    max_pixels: Annotated[int, msgspec.Meta(ge=1)] = 25_000_000

    def filled(self, graph: Signature) -> tuple[TensorSpec, ...]:
        """Return the input of the graph that this step fills.

        Raises:
            ConfigurationError: the graph has none of that name, or it cannot hold the image.
        """
        spec = graph.input(self.output)
        if spec is None:
            raise ConfigurationError(
                f"the step 'image' fills the input {self.output!r} (its `output`); the graph has: "
                f"{', '.join(each.name for each in graph.inputs)}"
            )
        is_flat = all(axis > 0 for axis in spec.row_shape) and math.prod(spec.row_shape) == math.prod(self.shape)
        if spec.kind not in {"FP", "INT"} or not (spec.fits(self.shape) or is_flat):
            raise ConfigurationError(
                f"the step 'image' makes {list(self.shape)} of an image ({self.layout} without N); the input "
                f"{self.output!r} takes {spec.datatype} {list(spec.row_shape)}"
            )
        if any(len(values) not in {0, 1, self.channels} for values in (self.mean, self.std)) or 0 in self.std:
            raise ConfigurationError(
                f"the step 'image' needs `mean` and `std` for each of its {self.channels} channels, and no `std` of 0"
            )
        return (spec,)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one image."""
        height, width = self.size
        return (self.channels, height, width) if self.layout == "NCHW" else (height, width, self.channels)

    def public(self) -> tuple[TensorSpec, ...]:
        """Return the inputs that clients see."""
        return (TensorSpec(name=self.input, datatype="BYTES", shape=(-1, 1), is_binary=True),)


class _UnreadableError(Exception):
    """An image that is refused; the message says why."""


class ImageDecoder:
    """Decodes the images of a batch, one after the other."""

    def __init__(self, step: ImageStep, graph: Signature) -> None:
        """Load the library.

        Raises:
            ConfigurationError: the extra is not installed.
        """
        try:
            from PIL import Image, ImageOps  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "the version has a step 'image', which needs the package 'pillow'. Install the extra: pip install "
                "'inferlane[image]'"
            ) from error
        self._images, self._operations = Image, ImageOps
        self.step = step
        (spec,) = step.filled(graph)
        self._dtype = numpy_dtype(spec.datatype)
        self._shape = step.shape if spec.fits(step.shape) else spec.row_shape
        self._resample = Image.Resampling[step.resample.upper()]
        self._mean = np.array(step.mean or (0.0,), np.float32)
        self._std = np.array(step.std or (1.0,), np.float32)

    def rows(self, files: Sequence[bytes], refused: MutableMapping[int, str]) -> np.ndarray:
        """Return the images as one array; for each that cannot be read, the reason is added to `refused`."""
        array = np.zeros((len(files), *self._shape), self._dtype)
        for row, content in enumerate(files):
            try:
                array[row] = self._row(content).reshape(self._shape)
            except _UnreadableError as error:
                refused[row] = f"input {self.step.input!r}: {error}"
        return array

    def _row(self, content: bytes) -> np.ndarray:
        step = self.step
        if len(content) > step.max_bytes:
            raise _UnreadableError(f"the file has {len(content)} bytes, the limit is {step.max_bytes} (`max_bytes`)")
        try:
            with self._images.open(io.BytesIO(content), formats=_FORMATS) as image:
                # Only the head of the file is read so far.
                self._check_pixels("the image", *image.size)
                scaled = self._scaled(self._operations.exif_transpose(image).convert(_MODES[step.channels]))
        except _UnreadableError:
            raise
        except Exception as error:  # what is wrong with a file shows as whatever its decoder runs into
            raise _UnreadableError(
                f"the file cannot be read as an image ({clipped(str(error))}); send a whole {', '.join(_FORMATS)} file"
            ) from error
        values = np.asarray(scaled, np.float32).reshape(*step.size, step.channels)
        values = (values * np.float32(step.scale) - self._mean) / self._std
        return values.transpose(2, 0, 1) if step.layout == "NCHW" else values

    def _scaled(self, image: Any) -> Any:
        height, width = self.step.size
        edge = self.step.shortest_edge
        if edge is None:
            return image.resize((width, height), self._resample)
        short = min(image.size)
        across, down = (side * edge // short for side in image.size)
        # A strip of a thousand pixels would be scaled to a giant.
        self._check_pixels(f"the image with its shorter side scaled to {edge}", across, down)
        left, top = (across - width) // 2, (down - height) // 2
        return image.resize((across, down), self._resample).crop((left, top, left + width, top + height))

    def _check_pixels(self, what: str, width: int, height: int) -> None:
        if width * height > self.step.max_pixels:
            raise _UnreadableError(
                f"{what} has {width} x {height} pixels, the limit is {self.step.max_pixels} (`max_pixels`)"
            )

    def samples(self, count: int) -> np.ndarray:
        """Files of images of several sizes, `(count, 1)`."""
        random = np.random.default_rng(_SEED)
        array = np.empty((count, 1), object)
        for row in range(count):
            width, height = _SAMPLES[row % len(_SAMPLES)]
            pixels = random.integers(0, 256, (height, width, 3), np.uint8)
            file = io.BytesIO()
            self._images.fromarray(pixels).save(file, "PNG")
            array[row, 0] = file.getvalue()
        return array
