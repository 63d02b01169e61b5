"""The steps of a version as it declares them, and the signature that they give it."""

from dataclasses import dataclass, replace

from inferlane.contracts.wire.class_names import ClassNames
from inferlane.contracts.wire.row_texts import TOKEN_COUNT
from inferlane.contracts.wire.tensors import Signature, TensorSpec
from inferlane.errors import ConfigurationError
from models.steps.image_step import ImageStep
from models.steps.pooling_steps import FirstToken, MeanPool, Normalize
from models.steps.score_steps import Argmax, ArrayStep, Stage, Threshold
from models.steps.token_labels import TEXT, TokenLabels
from models.steps.tokenizer_step import ENDS, MASK, STARTS, TokenizerStep

BeforeStep = TokenizerStep | ImageStep
AfterStep = ArrayStep | FirstToken | MeanPool | Normalize | TokenLabels


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """What runs before and after the graph, which has the signature `graph`."""

    graph: Signature
    before: tuple[BeforeStep, ...] = ()
    after: tuple[AfterStep, ...] = ()

    @property
    def tokenizer(self) -> TokenizerStep | None:
        """The step that makes tokens of text, if there is one."""
        return next((step for step in self.before if isinstance(step, TokenizerStep)), None)

    @property
    def keeps_offsets(self) -> bool:
        """Whether a step asks where the tokens are in their text."""
        return any(isinstance(step, TokenLabels) for step in self.after)

    @property
    def files(self) -> tuple[str, ...]:
        """The files beside the model that the steps read."""
        return tuple(step.file for step in self.before if isinstance(step, TokenizerStep))

    @property
    def class_names(self) -> ClassNames:
        """What the class indices stand for that steps add, by output."""
        return {step.output: step.labels for step in self.after if isinstance(step, Argmax | Threshold) and step.labels}

    def public(self) -> Signature:
        """Return the signature that clients see.

        Raises:
            ConfigurationError: the steps do not fit the graph, or one another.
        """
        inputs = self._inputs()
        outputs = self._outputs()
        for spec in (*inputs, *outputs) if self.tokenizer is not None else ():
            if spec.is_free:
                raise ConfigurationError(
                    f"{spec.name!r} has the shape {list(spec.shape)}, and with a step 'tokenizer' no row may have a "
                    "free length of its own. Pool it (`mean-pool`, `first-token`), label its tokens (`token-labels`), "
                    "or leave it out with `select`"
                )
        return replace(
            self.graph,
            inputs=inputs,
            outputs=outputs,
            has_free_axes=any(spec.is_free for spec in inputs),
            raw_inputs=frozenset(spec.name for spec in inputs if spec.is_binary),
        )

    def _inputs(self) -> tuple[TensorSpec, ...]:
        filled: dict[str, BeforeStep] = {}
        for step in self.before:
            for spec in step.filled(self.graph):
                if spec.name in filled:
                    raise ConfigurationError(f"two of the steps before the model fill its input {spec.name!r}")
                filled[spec.name] = step
        left = (spec for spec in self.graph.inputs if spec.name not in filled)
        inputs = (*(spec for step in self.before for spec in step.public()), *left)
        names = [spec.name for spec in inputs]
        if len(set(names)) < len(names):
            raise ConfigurationError(f"two inputs have one name: {', '.join(names)}. Rename the `input` of a step")
        return inputs

    def _outputs(self) -> tuple[TensorSpec, ...]:
        inputs = {spec.name: spec for spec in self.graph.inputs}
        if self.tokenizer is not None:
            inputs.setdefault(MASK, TensorSpec(name=MASK, datatype="INT64", shape=(-1, -1)))
        if self.tokenizer is not None and self.tokenizer.pair is None:
            # Where tokens are in one text.
            inputs |= {name: TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in (STARTS, ENDS)}
            inputs[TEXT] = self.tokenizer.public()[0]
        at: Stage[TensorSpec] = Stage({spec.name: spec for spec in self.graph.outputs}, inputs)
        for step in self.after:
            at = step.specs(at)
        outputs = dict(at.outputs)
        if self.tokenizer is not None and self.tokenizer.count:
            if TOKEN_COUNT in outputs:
                raise ConfigurationError(
                    f"the step 'tokenizer' adds the output {TOKEN_COUNT!r}, which is there already"
                )
            outputs[TOKEN_COUNT] = TensorSpec(name=TOKEN_COUNT, datatype="UINT32", shape=(-1,))
        return tuple(outputs.values())
