from __future__ import annotations

from camrt.engine.serving.pace import QUIET_SECONDS, Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(pace: Pace, seconds_of: float, fixed: float, times: int = 20) -> float:
    """The size that runs for a long question come to, where a run takes so long an image and besides."""
    for _ in range(times):
        size = pace.size("runner")
        pace.note_long_run("runner", size, fixed + seconds_of * size)
    return pace.size("runner")


def test_a_long_question_by_itself_is_run_in_full_batches() -> None:
    assert run(Pace(32), 1.0, 0.0) == 32


def test_beside_short_ones_its_runs_take_about_as_long_as_theirs() -> None:
    clock = Clock()
    pace = Pace(32, clock)
    pace.note_short_run("trunk", 0.01)
    pace.note_short_question()
    assert pace.size("runner") == 1
    assert 1 <= run(pace, 0.01, 0.0) <= 1.5  # a processor: one image as long as the other
    assert run(pace, 0.0001, 0.01) == 32  # a GPU: as long whatever their number
    assert 10 < run(pace, 0.001, 0.0) < 16
    clock.now += QUIET_SECONDS + 1
    assert pace.size("runner") == 32


def test_quick_runs_between_slow_ones_do_not_make_it_smaller() -> None:
    pace = Pace(32, Clock())
    pace.note_short_question()
    for _ in range(50):
        pace.note_short_run("trunk", 0.02)
        pace.note_short_run("head", 0.0001)
    assert 12 < run(pace, 0.002, 0.0) < 16


def test_one_run_that_was_slow_does_not_make_it_larger() -> None:
    pace = Pace(32, Clock())
    pace.note_short_question()
    for seconds in [0.01] * 20 + [0.1] + [0.01] * 3:
        pace.note_short_run("trunk", seconds)
    assert 1 <= run(pace, 0.01, 0.0) < 3


def test_a_small_rest_does_not_make_it_smaller() -> None:
    pace = Pace(32, Clock())
    pace.note_short_run("trunk", 1.0)
    pace.note_short_question()
    run(pace, 0.0, 0.1)
    pace.note_long_run("runner", 1, 0.1)
    assert pace.size("runner") == 32


def test_long_and_short_questions_have_equal_shares_of_the_time() -> None:
    pace, spent = Pace(32, Clock()), {"long": 0.0, "short": 0.0}
    for number in range(300):
        seconds = 0.01 * (1 + number % 7)
        kind = "long" if pace.long_is_due else "short"
        spent[kind] += seconds
        if kind == "long":
            pace.note_long_run("runner", 1.0, seconds)
        else:
            pace.note_short_run("trunk", seconds)
    assert 0.7 < spent["long"] / spent["short"] <= 1.1
