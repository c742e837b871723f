"""Lines for people who watch a log, a bar for those at a terminal, nothing for scripts."""

import io
import sys

import pytest

from graphnn_unet import progress
from graphnn_unet.progress import Progress, say, set_quiet, track


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
