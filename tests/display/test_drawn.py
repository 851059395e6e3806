"""What a canvas shows after something has failed, in a view that draws a number."""

import pytest

from vlmtrace.display.canvas import BrowserCanvas
from vlmtrace.display.drawn import Drawn


class Number(Drawn):
    """Draws a number where it is positive."""

    def __init__(self):
        self.canvas, self.n = BrowserCanvas(), 1
        self.draw()

    def draw(self, draws_first=False):
        if self.n > 0 or draws_first:
            self.canvas.state = {"n": self.n}
        if self.n < 0:
            raise MemoryError


@pytest.fixture
def number():
    return Number()


@pytest.mark.parametrize(("draws_first", "left"), [(False, {}), (True, {"n": -1})])
def test_where_nothing_new_is_drawn_what_was_drawn_goes(number, draws_first, left):
    number.n = -1
    with pytest.raises(MemoryError), number.cleared_on_failure():
        number.draw(draws_first)
    assert number.canvas.state == left


def test_attributes_and_the_page_go_back_where_a_choice_fails(number):
    for n in (1, 2):
        with pytest.raises(MemoryError), number.drawn_again_on_failure(), number.attributes_set(n=-n):
            number.draw()
        assert number.n == 1 and number.canvas.state == {"n": 1, "nRefused": n}, "a state that is the same is not sent"
    with number.drawn_again_on_failure(), number.attributes_set(n=3):
        number.draw()
    assert number.n == 3 and number.canvas.state == {"n": 3}


def test_nothing_stays_nothing():
    empty = Drawn()
    with pytest.raises(ZeroDivisionError), empty.drawn_again_on_failure(), empty.cleared_on_failure():
        raise ZeroDivisionError
    number = Number()
    number.draw_nothing()
    number.draw_again()
    assert number.canvas.state == {}
