"""What is published of the error budget: which streams, orders, budgets and callers, and what to know of them."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Part:
    """Streams to play: each at every budget and in every world of `benchmarks.budget.run`, in so many orders.

    `first` is the first order's number; `rows` of each order are played, None for all; `over` a server's socket too;
    the first `rivals` orders by others as well.
    """

    streams: tuple[str, ...]
    orders: int = 20
    budgets: tuple[float, ...] = (0.01, 0.02, 0.05)
    worlds: tuple[str, ...] = ("",)
    first: int = 0
    rows: int | None = None
    over: bool = False
    rivals: int = 0


INTRODUCTION: Final = (
    "",
    "`python -m benchmarks.budget.run DATA --published --resume FILE --peers PYTHON --output FILE`",
    "",
    "Wrong answers are a share of all requests. Settings were chosen on the other half of banking77's intents and of",
    "QQP's clusters, and on other orders; of the `-kept` streams no row was used for that, of `banking77` and",
    "`banking77-drift` half of the rows were. Which prior share of errors no feature tells (`_PRIOR_UNSEEN`) was also",
    "looked at on all of banking77. That verdicts from before a change no longer speak for the model, that what was",
    "served before keeps its bound, and how plainly a change must show, was decided once these orders had been played",
    "without it, by what others came to (docs/evaluation.md). `held` counts the orders whose wrong answers were within",
    "the bound that was published at the end.",
)
SECTIONS: Final = (
    (
        "Whole streams",
        ("In 20 random orders; the others play the first of them.",),
        Part(("arena", "banking77", "qqp-kept"), rivals=1),
    ),
    (
        "Verdicts that are wrong, or missing",
        (
            "In 10 orders. Of what callers say of candidates 5 % are flipped at random; or of a third of the plans",
            "nothing is reported. A flipped verdict looks like an error that nothing tells: less is served.",
        ),
        Part(("banking77-kept",), orders=10, worlds=("", "5 % flipped", "a third missing")),
    ),
    (
        "Answers that change",
        ("In 20 orders. From the middle of the stream on every other intent has a new answer.",),
        Part(("banking77-drift",), orders=20),
    ),
    (
        "Answers that change to others worded alike, and nobody says so",
        (
            "In 20 orders. Answers are texts and nothing is said of candidates; from the middle of the stream on every",
            "other intent has an answer in which only a number is another, so that the texts tell nothing.",
        ),
        Part(("banking77-alike",), orders=20, worlds=("nothing said",)),
    ),
    (
        "Through a running server, over its socket",
        (
            "One whole order, with the server's real encoder, search and store; it throws the same coins for audits",
            "as the same order in process does. Once one decision differs, all later ones may.",
        ),
        Part(("banking77",), orders=1, over=True),
    ),
)
