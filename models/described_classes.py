"""Which outputs of a version have class names: those that version.toml or a step gives them, or those of model.toml."""

from inferlane.contracts.wire.class_names import NO_NAMES, ClassNames
from inferlane.contracts.wire.tensors import TensorSpec
from models.files import VersionFile
from models.steps.declared_steps import Steps

# What exporters call the output that says the class of a row.
_LABELS = frozenset({"label", "output_label"})

Outputs = tuple[TensorSpec, ...]


def declared_classes(entry: VersionFile, steps: Steps | None) -> ClassNames:
    """The class names that a version itself gives its outputs."""
    return with_steps({output.name: output.classes for output in entry.outputs if output.classes}, steps)


def with_steps(classes: ClassNames, steps: Steps | None) -> ClassNames:
    """The class names of a graph's outputs, and those of the outputs that steps add."""
    return {**classes, **(NO_NAMES if steps is None else steps.class_names)}


def label_classes(outputs: Outputs, declared: ClassNames, of_model: tuple[str, ...]) -> tuple[str, ...]:
    """The classes that a row may be given: those that an output of indices declares, else those of the model."""
    ours = [spec.name for spec in outputs if _is_index(spec) and spec.name in declared]
    one_a_row = [spec.name for spec in outputs if spec.name in ours and spec.row_shape in {(), (1,)}]
    return declared[(one_a_row or ours)[0]] if ours else of_model


def names_of_outputs(outputs: Outputs, declared: ClassNames, classes: tuple[str, ...]) -> ClassNames:
    """The class names of each output that has some: its own, or `classes`, those of the version.

    `classes` name the label alone, and scores of as many columns: another whole number, such as a count, is no class.
    """
    names = {spec.name: declared[spec.name] for spec in outputs if spec.name in declared}
    if classes and not any(_is_index(spec) and spec.name in names for spec in outputs):
        plain = [spec.name for spec in outputs if _is_index(spec) and not spec.row_shape]
        usual = [name for name in plain if name in _LABELS]
        names |= dict.fromkeys((usual or plain)[:1], classes)
    for spec in outputs:
        if classes and spec.kind == "FP" and spec.row_shape == (len(classes),):
            names.setdefault(spec.name, classes)
    return names


def label_of(outputs: Outputs, names: ClassNames) -> str | None:
    """The output that says the class of each row, one index a row; None if there is none."""
    return next(
        (spec.name for spec in outputs if _is_index(spec) and spec.row_shape in {(), (1,)} and spec.name in names), None
    )


def _is_index(spec: TensorSpec) -> bool:
    return spec.datatype.startswith("INT")
