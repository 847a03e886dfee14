"""Words: typos are none where both words are real, and what faces each other is opposed."""

import pytest

from index.guard import differences, prepare
from index.lexicon import opposed
from index.typos import is_typo


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cefuroxime", "cefixime"),
        ("quinine", "quinidine"),
        ("dysgraphia", "dysgraphic"),
        ("peritoneal", "perineural"),
        ("monocots", "monopods"),
        ("nanometer", "nanoliter"),
        ("strcat", "strncat"),
        ("memcpy", "memccpy"),
        ("mkdir", "mkdirp"),
        ("ptosis", "ptysis"),
        ("transferor", "transferee"),
        ("promisor", "promisee"),
        ("tuner", "tunee"),
    ],
)
def test_two_real_words_are_no_typos_of_each_other(one: str, other: str) -> None:
    assert not is_typo(one, other)
    assert not is_typo(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("receive", "recieve"),
        ("accommodate", "accomodate"),
        ("blockchain", "blcokchain"),
        ("blockchain", "blokchain"),
        ("conveyancer", "conveyancor"),
        ("photosynthesis", "photosynthesys"),
        ("procrastinating", "procrastination"),
        ("rothchilds", "rothschilds"),
        ("transformer", "transformar"),
    ],
)
def test_a_word_that_nobody_uses_is_a_typo(one: str, other: str) -> None:
    assert is_typo(one, other)
    assert is_typo(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("bailor", "bailee"), ("donor", "donee"), ("trainer", "trainee"), ("advisers", "advisees"),
        ("acceleration", "speed"), ("circumference", "radius"), ("volume", "diameter"), ("density", "mass"),
        ("invention", "discovery"), ("survivor", "died"), ("defeated", "lost"), ("guilty", "innocent"),
        ("sometimes", "always"), ("wear", "avoid"), ("pausing", "resuming"), ("succeeded", "failed"),
    ],
)  # fmt: skip
def test_what_faces_each_other_is_opposed(one: str, other: str) -> None:
    assert opposed([one], [other])
    assert opposed([other], [one])


@pytest.mark.parametrize(
    ("one", "other"),
    [("coffee", "tea"), ("employee", "worker"), ("speed", "fast"), ("avoid", "prevent"), ("win", "beat")],
)
def test_what_only_says_it_otherwise_is_not(one: str, other: str) -> None:
    assert not opposed([one], [other])


def test_an_opposite_is_found_where_its_other_form_stands_on_both_sides() -> None:
    assert "opposite" in differences(prepare("How do I open closed tabs?"), prepare("How do I close closed tabs?"))
    assert differences(prepare("How do I open closed tabs?"), prepare("How can I open tabs I closed?")) == ()
