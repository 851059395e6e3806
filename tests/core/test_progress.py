"""The counter: what was found counts as done and leaves the estimate alone; workers draw nothing."""

import io
import time

import pytest

from vlmtrace.core import progress
from vlmtrace.core.progress import counter, say, silent


@pytest.fixture
def terminal(monkeypatch):
    """The bar in the terminal, as a kernel under make draws it."""
    drawn = io.StringIO()
    drawn.close_for_real, drawn.close = drawn.close, lambda: None
    monkeypatch.setenv(progress.TERMINAL, "/dev/some-terminal")
    monkeypatch.setattr(progress, "_terminal", lambda device: drawn)
    return drawn


def test_pairs_that_were_found_count_as_done(terminal):
    with counter(100, "patch_heads", "pairs", steady=True) as advance:
        time.sleep(0.11)  # a bar is drawn ten times a second
        advance(60, found=True)
        assert "60/100" in terminal.getvalue()
        advance(40)
    assert "pairs/s" in terminal.getvalue()


def test_the_estimate_leaves_out_what_was_found(monkeypatch):
    bars = []
    real = progress.notebook_tqdm
    monkeypatch.setattr(progress, "notebook_tqdm", lambda **look: bars.append(real(**look)) or bars[-1])
    with counter(1000, "x", "pairs", steady=True) as advance:
        (bar,) = bars
        advance(900, found=True)
        bar.start_t -= 10  # ten seconds ago
        advance(50)
        state = bar.format_dict
        rate = (state["n"] - state["initial"]) / state["elapsed"]
        assert state["n"] == 950 and 4 < rate < 5.1, "50 pairs in ten seconds, whatever was found before"


def test_a_silent_block_draws_nothing(terminal, capsys):
    with silent(), counter(3, "x") as advance:
        advance(3)
    assert not terminal.getvalue() and not capsys.readouterr().err


def test_a_sentence_goes_to_the_terminal_or_to_the_error_output(terminal, capsys, monkeypatch):
    say("Here.")
    assert "Here." in terminal.getvalue()
    monkeypatch.delenv(progress.TERMINAL)
    say("There.")
    assert capsys.readouterr().err == "There.\n"
