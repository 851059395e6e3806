"""Which patches the view Patch has, as one thing that is replaced as a whole."""

import pandas as pd
import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.methods.patching import Patch
from vlmtrace.methods.patching.chosen import Chosen

FIRST, SECOND = Patch("b", "mlp", 0, (1,)), Patch("b", "mlp", 1)


class Pair:
    """What is asked of an example: its name, and the roles of its tokens."""

    def __init__(self, name, roles):
        self.name, self._roles = name, roles

    def tokens(self, _block):
        return pd.DataFrame({"position": range(len(self._roles)), "token_role": self._roles})


HERE, THERE = Pair("here", ["a", "noun"]), Pair("there", ["noun", "a"])


def test_a_change_leaves_what_was_there_and_can_be_undone():
    none = Chosen()
    one = none.set([FIRST])
    two = one.set([FIRST, SECOND])
    assert (none.patches, one.patches, two.patches) == ([], [FIRST], [FIRST, SECOND])
    assert two.undo().patches == [FIRST] and two.undo().undo().patches == [] and two.undo().undo().before == []
    assert none.undo() is none


def test_patches_are_put_away_where_another_example_is_opened_and_carried_over_on_demand():
    opened = Chosen(keeps=True).set([FIRST, SECOND]).opened(THERE, HERE, 0.5)
    assert opened.patches == [] and opened.before == [] and opened.keeps and opened.put_away.effect == 0.5
    carried = opened.carry(THERE)
    assert carried.patches == [FIRST._replace(positions=(0,)), SECOND] and carried.undo().patches == []
    assert carried.carried == {"name": "here", "effect": 0.5, "left": []}
    assert opened.opened(HERE, THERE, 0.1).put_away.name == "here", "nothing was patched there"


def test_what_an_address_chose_is_there_in_its_example_only():
    chosen = Chosen(restored=(THERE, [SECOND]))
    assert chosen.opened(THERE, HERE, 0.0).patches == [SECOND]
    elsewhere = chosen.opened(HERE, None, 0.0)
    assert elsewhere.patches == [] and elsewhere.restored is None


def test_nothing_is_carried_over_where_nothing_was_put_away():
    with pytest.raises(VlmtraceError, match="No patches of another pair were put away"):
        Chosen().carry(HERE)
