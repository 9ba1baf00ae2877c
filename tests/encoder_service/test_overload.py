"""The overload detector, on a clock of the test's own."""

import pytest

from encoder_service.rpc.overload import OverloadDetector

LIMIT, OVERLOAD_LIMIT = 10, 3


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def detector(clock: Clock) -> OverloadDetector:
    return OverloadDetector(LIMIT, OVERLOAD_LIMIT, clock)


def overload(detector: OverloadDetector) -> None:
    assert not detector.admits(LIMIT)


def test_without_overload_calls_are_admitted_up_to_the_limit(detector: OverloadDetector) -> None:
    assert [detector.admits(in_flight) for in_flight in range(LIMIT + 1)] == [True] * LIMIT + [False]


def test_overload_begins_when_a_call_finds_the_limit_reached(detector: OverloadDetector) -> None:
    assert detector.admits(OVERLOAD_LIMIT)
    overload(detector)
    assert not detector.admits(OVERLOAD_LIMIT)
    assert detector.admits(OVERLOAD_LIMIT - 1)


def test_overload_begins_when_more_than_half_of_the_limit_lasts_for_a_tenth_of_a_second(
    detector: OverloadDetector, clock: Clock
) -> None:
    assert detector.admits(6)
    clock.now += 0.09
    assert detector.admits(6)
    clock.now += 0.02
    assert not detector.admits(6)


def test_a_pool_that_is_half_empty_in_between_is_not_overloaded(detector: OverloadDetector, clock: Clock) -> None:
    for in_flight in (9, 5, 9):
        assert detector.admits(in_flight)
        clock.now += 0.08
    assert detector.admits(9)


def test_overload_ends_after_a_second_in_which_half_of_the_calls_were_admitted(
    detector: OverloadDetector, clock: Clock
) -> None:
    overload(detector)
    assert detector.admits(0)  # one of two rejected
    clock.now += 0.99
    assert not detector.admits(OVERLOAD_LIMIT)
    assert detector.admits(0)  # two of four
    clock.now += 0.02
    assert detector.admits(OVERLOAD_LIMIT)


def test_overload_lasts_while_more_than_half_of_the_calls_are_rejected(
    detector: OverloadDetector, clock: Clock
) -> None:
    overload(detector)
    for _ in range(5):
        clock.now += 1.01
        assert not detector.admits(OVERLOAD_LIMIT)
    assert detector.admits(0)
    clock.now += 1.01  # one of two of the last second were rejected
    assert detector.admits(OVERLOAD_LIMIT)


def test_overload_ends_after_a_second_without_calls(detector: OverloadDetector, clock: Clock) -> None:
    overload(detector)
    clock.now += 2.01
    assert detector.admits(OVERLOAD_LIMIT)


def test_a_detector_without_an_overload_limit_always_admits_up_to_the_limit(clock: Clock) -> None:
    detector = OverloadDetector(LIMIT, clock=clock)
    overload(detector)
    assert detector.admits(LIMIT - 1)


@pytest.mark.parametrize(("limit", "overload_limit", "expected"), [(10, 9, 5), (10, 0, 1), (1, 1, 1)])
def test_the_overload_limit_is_cut_to_between_one_and_half_of_the_limit(
    clock: Clock, limit: int, overload_limit: int, expected: int
) -> None:
    detector = OverloadDetector(limit, overload_limit, clock)
    assert not detector.admits(limit)
    assert detector.admits(expected - 1)
    assert not detector.admits(expected)
