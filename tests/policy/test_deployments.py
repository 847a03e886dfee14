"""Deployments: one model at several places shares what is known of it, and its calls by weight."""

import random
from collections import Counter

import pytest

from index.catalogue import CatalogueFileError, parse_catalogue
from service.policy.deployments import alike, groups_of, one_each, spread
from service.requests import Estimate, Reason
from service.routing.choose import Ranking, single

MODEL = """
[[models]]
id = "{}"
input_usd_per_mtok = 1
output_usd_per_mtok = 1
context_window = 1000
"""
TEXT = (
    MODEL.format("east")
    + 'group = "big"\nweight = 3\n'
    + MODEL.format("west")
    + 'group = "big"\n'
    + MODEL.format("idle")
    + 'group = "big"\nweight = 0\n'
    + MODEL.format("other")
    + MODEL.format("lone")
    + 'group = "alone"\n'
)
CATALOGUE = parse_catalogue(TEXT, "models.toml")
GROUPS = groups_of(CATALOGUE)


def estimate(model: str, quality: float, cost: float = 0.1) -> Estimate:
    return Estimate(model, quality, quality / 2, cost, None)


def ranking(*models: Estimate) -> Ranking:
    return Ranking(models, 0.5, Reason.NEIGHBOURS)


def test_only_models_that_share_a_group_are_one() -> None:
    assert set(GROUPS) == {"east", "west", "idle"}


def test_what_is_known_of_one_holds_for_all_of_its_group() -> None:
    found = alike([estimate(m, q) for m, q in zip(CATALOGUE.ids, (0.2, 0.8, 0.0, 0.5, 0.1), strict=True)], GROUPS)
    assert [(e.quality, e.quality_low) for e in found] == [(0.8, 0.4)] * 3 + [(0.5, 0.25), (0.1, 0.05)]


def test_calls_are_shared_by_weight_whoever_was_ranked_first() -> None:
    rng = random.Random(1)
    found = ranking(*(estimate(m, 0.8) for m in ("idle", "west", "east", "other")))
    firsts = Counter(spread(found, GROUPS, rng.random()).models[0].model for _ in range(4_000))
    assert firsts["east"] / 4_000 == pytest.approx(0.75, abs=0.03)
    assert firsts["west"] / 4_000 == pytest.approx(0.25, abs=0.03)
    assert set(firsts) == {"east", "west"}


def test_the_same_model_elsewhere_is_next_before_dearer_ones() -> None:
    found = spread(ranking(estimate("east", 0.8), estimate("west", 0.8), estimate("other", 0.9, 0.2)), GROUPS, 0.0)
    assert [step.model for step in single(found).steps] == ["east", "west", "other"]


def test_one_that_is_not_feasible_gets_none() -> None:
    left = ranking(estimate("west", 0.8), estimate("other", 0.7))
    assert {spread(left, GROUPS, place).models[0].model for place in (0.0, 0.5, 0.99)} == {"west"}
    idle = ranking(estimate("idle", 0.8), estimate("other", 0.7))
    assert spread(idle, GROUPS, 0.5).models[0].model == "idle", "the only one that is left"


def test_places_of_one_model_are_one_choice() -> None:
    models = [estimate(name, 0.9) for name in ("lone", "west", "east", "other", "idle")]
    assert [e.model for e in one_each(ranking(*models), GROUPS).models] == ["lone", "west", "other"]


def test_a_model_outside_groups_is_left_alone() -> None:
    found = ranking(estimate("other", 0.8), estimate("east", 0.8))
    assert spread(found, GROUPS, 0.9) == found


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ('group = "big"\nweight = 0\n', "group 'big': the weights of all its models are 0; give one of them a weight"),
        ('group = "big"\nweight = -1\n', "weight: must be a number of at least 0, not -1"),
        ('group = ""\n', "group: must be text of 1 to 256 bytes"),
        ("weigth = 1\n", "weigth: is not a key of the catalogue; did you mean 'weight'?"),
    ],
)
def test_a_group_that_makes_no_sense_is_named(lines: str, why: str) -> None:
    with pytest.raises(CatalogueFileError) as error:
        parse_catalogue(MODEL.format("a") + lines, "models.toml")
    assert why in str(error.value)
