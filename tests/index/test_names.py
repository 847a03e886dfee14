"""Names: one more name, initial or suffix on one side only is another's, and only written otherwise is not."""

import pytest

from index.guard import differences, prepare


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who was Harry Truman?", "Who was Harry S. Truman?"),
        ("Who was John Kennedy?", "Who was John F. Kennedy?"),
        ("Who was James Watt?", "Who was James L. Watt?"),  # a letter that is a unit, too
        ("Who was Thomas Wilson?", "Who was Thomas Woodrow Wilson?"),
        ("Who is Paul Anderson?", "Who is Paul W. S. Anderson?"),
        ("Who was Brueghel?", "Who was Brueghel the Elder?"),
        ("Is Cal Ripken retired?", "Is Cal Ripken Jr. retired?"),
        ("Can I take Sudafed daily?", "Can I take Sudafed PE daily?"),
        ("Can I take Allegra daily?", "Can I take Allegra-D daily?"),
        ("Can I take Effexor daily?", "Can I take Effexor XR daily?"),
        ("Can I take effexor daily?", "Can I take effexor xr daily?"),
        ("Should I buy NWS shares?", "Should I buy NWSA shares?"),
        ("Should I buy UONE shares?", "Should I buy UONEK shares?"),
        ("Explain ORDER please", "Explain ORDER BY please"),
    ],
)
def test_a_name_with_more_to_it_is_another(one: str, other: str) -> None:
    assert differences(prepare(one), prepare(other))
    assert differences(prepare(other), prepare(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who was Harry S. Truman?", "who was harry s truman?"),
        ("Who is Elon Musk?", "Who is Musk?"),
        ("Is Sudafed PE safe?", "is sudafed pe safe?"),
        ("Who is Cal Ripken Jr.?", "Who is Cal Ripken Jr?"),
        ("What was it like to write for Seinfeld?", "What was it like to write for Seinfeld (TV Series)?"),
        ("WHAT IS THE REASON FOR THAT", "what is the reason"),
        ("How does ORDER BY work?", "How does order by work?"),
        ("Where was Arjun born?", "Where was Arjuna born?"),
        ("What is IT like there?", "What is it like there?"),
        ("How do I install macOS?", "How do I install MacOS?"),
        ("How do I sell my iPhone?", "How do I sell my iphone?"),
    ],
)
def test_the_same_name_written_otherwise_passes(one: str, other: str) -> None:
    assert differences(prepare(one), prepare(other)) == ()
