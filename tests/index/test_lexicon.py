"""Words: typos are none where both words are real, and what faces each other is opposed."""

import pytest

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
