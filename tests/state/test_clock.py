import time

from state.clock import FakeClock, SystemClock


def test_the_machines_clock_goes_on() -> None:
    clock = SystemClock()
    before = clock.monotonic()
    clock.sleep(0.001)
    assert clock.monotonic() - before >= 0.001
    assert abs(clock.now() - time.time()) < 60


def test_a_fake_clock_moves_when_told() -> None:
    clock = FakeClock(start=100.0)
    clock.sleep(5)
    assert (clock.now(), clock.monotonic()) == (105.0, 5.0)


def test_a_stepped_wall_leaves_the_monotonic_clock_alone() -> None:
    clock = FakeClock(start=100.0)
    clock.step_wall(-3600)
    assert (clock.now(), clock.monotonic()) == (-3500.0, 0.0)
