"""The answer that is stored wherever one is needed: as long as a model's to a short question."""

from typing import Final

ANSWER: Final = "An answer of a few sentences, as a model gives them to a short question. " * 8
