"""Arrays to check a model with: each is one of its inputs or outputs, and none is left out in silence."""

from pathlib import Path

import numpy as np
import pytest

from inferlane.errors import ConfigurationError
from models.adding.check_rows import read_check_rows
from tests.support.fakes.records import IRIS

ROWS = np.zeros((3, 4), np.float32)


def test_an_array_that_is_neither_input_nor_output_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", input=ROWS, probs=np.zeros((3, 3)))

    with pytest.raises(ConfigurationError, match="the arrays 'probs' are those of no input and no output"):
        read_check_rows(tmp_path / "rows.npz", IRIS, {})


@pytest.mark.parametrize("name", ["input", "x"])
def test_the_only_array_that_is_no_output_is_the_only_input(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "rows.npz", **{name: ROWS}, label=np.zeros(3, np.int64))

    rows = read_check_rows(tmp_path / "rows.npz", IRIS, {})

    assert (rows.inputs.keys(), rows.expected.keys()) == ({"input"}, {"label"})
