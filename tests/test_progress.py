"""Lines for people who watch a log, a bar for those at a terminal, nothing for scripts."""

import io
import re
import sys

import pytest

from graphnn_unet import progress
from graphnn_unet.progress import Progress, needs_text, say, set_quiet, track


@pytest.fixture(autouse=True)
def _loud():
    yield
    set_quiet(False)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    fake_clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", fake_clock)
    return fake_clock


def test_without_a_terminal_there_is_a_line_every_thirty_seconds(capsys, clock):
    with Progress(10, "train", "step") as shown:
        for _ in range(10):
            clock.now += 20
            shown.update("loss 0.5")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert lines[0] == "train: 2/10 steps, 2:40 min left  loss 0.5"


def test_steps_done_before_do_not_count_for_the_speed(capsys, clock):
    with Progress(10, "train", "step", initial=6) as shown:
        clock.now += 40
        shown.update()
    assert capsys.readouterr().err == "train: 7/10 steps, 2:00 min left\n"


def test_quiet_says_nothing(capsys, clock):
    set_quiet(True)
    say("a note")
    for _ in track(range(3), 3, "check"):
        clock.now += 100
    out, err = capsys.readouterr()
    assert (out, err) == ("", "")


def test_notes_go_to_stderr(capsys):
    say("a note")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "a note\n")


def test_tracked_items_pass_through():
    assert list(track(iter("abc"), 3, "check")) == ["a", "b", "c"]


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(2, "check") as shown:
        shown.update("case_1")
        shown.update()
    assert "check: 100%" in terminal.getvalue()
    assert "2/2" in terminal.getvalue()


def test_a_long_run_is_announced_once_from_what_was_measured(capsys, clock):
    with Progress(100, "train", "step", initial=10, needs=lambda: "1 GB") as shown:
        clock.now += 4  # the first step pays for the start
        shown.update()
        for _ in range(20):
            clock.now += 1
            shown.update()
    first, *others = capsys.readouterr().err.splitlines()
    # 4 s, then 1 s for each of the 89 others
    assert first == "train: 90 steps take about 1.6 min on this machine; 1 GB"
    assert not any("on this machine" in line for line in others)


def test_one_long_unit_tells_enough(capsys, clock):
    with Progress(13, "predict", needs=lambda: "1 GB") as shown:
        clock.now += 600
        shown.update()
    assert "13 cases take about 2.2 h on this machine" in capsys.readouterr().err


def test_a_first_unit_that_warms_up_tells_nothing(capsys, clock):
    with Progress(30, "cluster", "image", needs=lambda: "1 GB") as shown:
        clock.now += 22
        shown.update()
        assert "on this machine" not in capsys.readouterr().err
        clock.now += 4
        shown.update()
    # 22 s, then 4 s for each of the 29 others
    assert "30 images take about 2.3 min on this machine" in capsys.readouterr().err


def test_units_that_are_nearly_done_tell_how_fast_the_work_is(capsys, clock):
    with Progress(13, "predict", needs=lambda: "1 GB") as shown:
        clock.now += 60
        shown.update(ahead=1)
        clock.now += 30
        shown.update(ahead=1)
    announced, first, second = capsys.readouterr().err.splitlines()
    assert announced == "predict: 13 cases take about 6.5 min on this machine; 1 GB"
    assert first == "predict: 1/13 cases, 5:30 min left"
    assert second == "predict: 2/13 cases, 5:00 min left"


@pytest.mark.parametrize(("step_s", "needs"), [(0.5, str), (20, None)])
def test_short_runs_and_those_that_do_not_ask_are_not_announced(capsys, clock, step_s, needs):
    with Progress(20, "predict", needs=needs) as shown:
        for _ in range(20):
            clock.now += step_s
            shown.update()
    assert "on this machine" not in capsys.readouterr().err


def test_later_units_that_take_longer_count(capsys, clock):
    def work(step: int) -> float:
        return step + 2 * max(0, step - 10)  # three times as much from step 10 on

    with Progress(110, "train", "step", needs=lambda: "", work=work) as shown:
        for _ in range(6):
            clock.now += 1
            shown.update()
    assert "110 steps take about 5.2 min" in capsys.readouterr().err


def test_needs_name_memory_and_disk():
    assert re.fullmatch(r"it takes \d+\.\d GB of memory", needs_text())
    assert needs_text(3 * 2**20).endswith(" GB of memory and about 3 MB on the disk")
    assert needs_text(100).endswith("about 1 MB on the disk")
    assert needs_text(2**31).endswith("about 2.0 GB on the disk")
