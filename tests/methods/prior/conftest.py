"""The bundled models, and leading questions about a few rendered pairs."""

import pandas as pd
import pytest

import vlmtrace as vt

LEAD = "The {noun} is {answer}. {question}"


@pytest.fixture(scope="module", params=["tiny-blip", "tiny-llava"])
def model(request):
    return vt.load_model(request.param)


@pytest.fixture(scope="module")
def pairs() -> pd.DataFrame:
    """Plain and leading questions; options of one token and of several."""
    plain = vt.load_pairs("rendered_states", n=6, seed=0)
    return pd.concat([vt.reword(plain, "{question}", "plain"), vt.reword(plain, LEAD, "leading")], ignore_index=True)
