"""What is kept as it stands: moves, shares, files, names of functions."""

import pytest

from index.guard import differences, prepare


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Is Rb8+ a mistake?", "Is Rb8# a mistake?"),
        ("When is O-O allowed?", "When is O-O-O allowed?"),
        ("What is A-A-B form?", "What is A-B-A form?"),
        ("Should I hold RDS.A?", "Should I hold RDS.B?"),
        ("What is in main.c for me?", "What is in main.h for me?"),
        ("What does setItemName do?", "What does setItemNames do?"),
        ("Why is onClose never called?", "Why is onClosed never called?"),
    ],
)
def test_what_differs_in_a_sign_or_letter_that_counts_is_refused(one: str, other: str) -> None:
    assert differences(prepare(one), prepare(other))
    assert differences(prepare(other), prepare(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I send an e-mail?", "How do I send an email?"),
        ("Is an x-ray safe?", "Is an X-ray safe?"),
        ("When is O-O allowed?", "when is o-o allowed"),
        ("What does setItemName do?", "what does setitemname do"),
        ("How do I learn SQL?", "how do i learn sql"),
        ("Who is Samuel L. Jackson?", "Who is Samuel L Jackson?"),
        ("What about plan B. How do I choose it?", "What about plan B? How do I choose it?"),
    ],
)
def test_what_is_only_written_otherwise_passes(one: str, other: str) -> None:
    assert differences(prepare(one), prepare(other)) == ()
