"""A gallery's calibration judges a query."""

import numpy as np
import pytest

from gallery import Calibration
from gallery.spec import relative_error

# Images with errors from 0.001 to 0.01, half of whose neighbouring pixels are equal.
ERRORS = np.linspace(0.001, 0.01, 101)


@pytest.fixture
def calibration() -> Calibration:
    return Calibration.from_samples([relative_error(error, 0.5) for error in ERRORS], ERRORS.tolist())


def test_a_drawing_on_a_plain_background_needs_a_smaller_error_to_be_usual(calibration: Calibration) -> None:
    assert calibration.error_percentile(0.0091, 0.5) == pytest.approx(90)
    assert calibration.error_percentile(0.0091, 0.9) == 100


def test_the_errors_of_an_earlier_release_are_compared_as_they_are() -> None:
    earlier = Calibration(tuple(ERRORS.tolist()), tuple(ERRORS.tolist()))
    assert [earlier.error_percentile(0.0091, flatness) for flatness in (0.5, 0.9)] == pytest.approx([90, 90])


def test_drawings_may_be_flatter_than_scans() -> None:
    calibration = Calibration((), (), flatness=(0.2, 0.8))
    assert [calibration.is_flatness_usual(share, may_be_drawn=False) for share in (0.1, 0.8, 0.81)] == [0, 1, 0]
    assert [calibration.is_flatness_usual(share, may_be_drawn=True) for share in (0.1, 0.94, 0.96)] == [0, 1, 0]
