"""What a disagreement of a shadow shows of a row: enough for a person, and never a whole image or book."""

import numpy as np

from workers.shadow_copies import shown_values


def test_a_row_of_numbers_is_shown_by_its_first_values() -> None:
    assert shown_values(np.arange(40.0)) == [float(number) for number in range(16)]


def test_raw_bytes_are_shown_by_their_number_and_text_by_its_beginning() -> None:
    image = np.array([bytes(5_000_000)], object)
    text = np.array(["x" * 10_000], np.dtypes.StringDType())

    assert shown_values(image) == ["5000000 bytes"]
    (shown,) = shown_values(text)
    assert shown.startswith("x" * 200)
    assert len(shown) < 250
