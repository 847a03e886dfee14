"""Answers with outcomes for tests."""

import numpy as np

from index.judged import JudgedAnswer


def sums(many: int, *, seed: int = 0, doubt: float = 0.1) -> list[JudgedAnswer]:
    """Return sums, of which those that do not come out are wrong but for some noise; two models, one better."""
    random = np.random.default_rng(seed)
    found = []
    for i in range(many):
        a, b = random.integers(2, 90, 2).tolist()
        model = ("small-1", "large-1")[i % 2]
        right = random.random() < (0.5 if model == "small-1" else 0.8)
        said = a + b if right ^ (random.random() < doubt) else a + b + 1
        found.append(JudgedAnswer(f"What is {a} plus {b}? ({i})", f"{a} + {b} = {said}", model, correct=right))
    return found


def meadows(many: int) -> list[JudgedAnswer]:
    """Return answers of the same length and form, of which only the words tell right from wrong."""
    random = np.random.default_rng(4)
    found = []
    for i in range(many):
        right = bool(random.random() < 0.5)
        answer = "green meadows lie ahead..." if right else "grey clouds hang low ahead"
        found.append(JudgedAnswer(f"Tell me {i}", answer, "small-1", correct=right))
    return found
