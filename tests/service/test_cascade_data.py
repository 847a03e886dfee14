"""Real answers: what is accepted is right as often as was promised, and a cascade costs less for the same gain.

The data is not part of the repository; where it is absent these tests are skipped. Embeddings are hashed words here: on
these answers the acceptor goes by their signs. docs/plans.md has the figures with the real encoder, over several seeds.
"""

import numpy as np
import pytest

from benchmarks import cascades
from index.encoder import HashEncoder
from tests.conftest import SHARED_DATA

ANSWERS = SHARED_DATA / "routing" / "routellm_gsm8k_answers.jsonl.gz"

pytestmark = pytest.mark.skipif(not ANSWERS.is_file(), reason="the answers are not here")


@pytest.fixture(scope="module")
def shown() -> cascades.Shown:
    """Half of the prompts learned on, the other half followed."""
    return cascades.divided(cascades.read([ANSWERS]), HashEncoder(), 0, cascades.Real())


def test_accepted_answers_are_right_as_often_as_promised(shown: cascades.Shown) -> None:
    for threshold in (0.5, 0.7):
        accepted = shown.p >= threshold
        assert accepted.sum() > 100
        # Two standard errors of 200 answers, and a little for the acceptor's own.
        assert shown.right[accepted].mean() == pytest.approx(shown.p[accepted].mean(), abs=0.09)
    assert shown.right[shown.p < 0.3].mean() < 0.4


def test_a_cascade_costs_less_than_the_best_single_plan_at_95_per_cent_of_the_gain(shown: cascades.Shown) -> None:
    figures = cascades.figures(shown, np.ones(len(shown.at)))
    assert figures["cost of cascade / of single at 95 % of the gain"] < 0.95
    assert figures["cascade: AIQ"] > figures["single: AIQ"] + 0.01
