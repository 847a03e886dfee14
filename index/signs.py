"""What an answer's text alone says about how it went: plain failures, and signs that a fitted acceptor weighs.

Pure functions of prompt and answer, without an embedding. The signs are bookkeeping that needs no understanding: does
the answer use the numbers it was given, do its sums come out, does it end as this model's answers end. They were chosen
on worked answers in mathematics and say little about prose; the acceptor finds out what each is worth. Called by
`index.acceptor` when fitting and by `service.routing.review` for every review.
"""

import ast
import json
import operator
import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from index.text import Context

# Of longer texts the first and the last half of this: where an answer starts and where it ends.
_LOOKED_AT: Final = 8_192
_MANY: Final = 8  # steps of a sum: more of them say no more
_NUMBER = re.compile(r"\d[\d,]{0,30}(?:\.\d{1,15})?")
_EQUATION = re.compile(r"(?<![\w.])([\d.]{1,15}(?: ?[-+*/] ?\(?[\d.]{1,15}\)?){1,12}) ?= ?(-?[\d.]{0,15}\d)")
_WORDS: Final = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_COUNTED: Final[dict[str, float]] = {
    **{word: number for number, word in enumerate(_WORDS, 2)},
    "dozen": 12,
    "half": 0.5,
    "twice": 2,
    "double": 2,
    "triple": 3,
    "quarter": 0.25,
    "third": 3,
}
_REFUSALS = re.compile(
    r"^\W{0,3}(?:(?:i'm|i am) (?:very |so |really )?sorry\b|sorry,|(?:i|we) (?:can(?:'|no)t|am unable to|won't) "
    r"(?:\w+ )?(?:help|assist|answer|comply|fulfil|provide|do that|create|discuss)|as an ai\b"
    r"|i'm (?:unable|not able) to\b|unfortunately, i (?:can(?:'|no)t|am unable))",
    re.IGNORECASE,
)
_DOUBTS = re.compile(r"however|not clear|cannot|actually|mistake|assum", re.IGNORECASE)
_COMPARISONS = re.compile(r"more than|less than|fewer|as many|times", re.IGNORECASE)
_DANGLING = re.compile(r"(?:[,;:(\[{]|\b(?:and|or|the|of|to|with|a|an))\Z", re.IGNORECASE)
_OPERATORS: Final[dict[type[ast.operator], Callable[[float, float], float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}

SIGNS: Final = (
    "characters",
    "characters of the prompt",
    "share of the prompt's numbers not used",
    "a number of the prompt is not used",
    "more given than worked out",
    "no sum",
    "one sum",
    "right sums",
    "a wrong sum",
    "ends in a fraction",
    "ends in a number of the prompt",
    "ends in a result",
    "counts in words not used",
    "lines",
    "unknowns",
    "doubts",
    "sums to numbers given",
    "no number",
    "ends a sentence",
    "length to the prompt's",
    "results not used",
    "a result is not used",
    "a negative result",
    "a fraction among the results",
    "a count is asked",
    "a count is asked, a fraction given",
    "numbers from nowhere",
    "several numbers from nowhere",
    "size of the last number",
    "lines with text",
    "longest line",
    "per cent asked",
    "conditions asked",
    "sentences of the prompt",
    "clauses of the prompt",
    "comparisons asked",
    "each asked",
    "marked result",
    "marked result with words",
    "numbers",
    "repeated numbers of the prompt",
)
"""What each place of `signs` says."""


def failure(answer: str, context: Context | None = None) -> str:
    """Return why an answer is none at all: "empty", "refused", "cut off" or "wrong format"; "" where it is one.

    Args:
        answer: as the model gave it.
        context: of the request; where its `response_format` asks for JSON, the answer must be JSON, and an object
            with the required keys where it is itself a JSON schema.
    """
    text = answer.strip().replace("\u2019", "'")
    if not text:
        return "empty"
    wanted = context.response_format.strip() if context is not None else ""
    if "json" in wanted.lower() or wanted.startswith("{"):
        return "" if _is_json(text, wanted) else "wrong format"
    if len(text) < _LOOKED_AT and _REFUSALS.match(text):
        return "refused"
    return "cut off" if text.count("```") % 2 or _DANGLING.search(text[-16:]) else ""


def signs(prompt: str, answer: str) -> NDArray[np.float64]:
    """Return the signs of an answer, in the order of `SIGNS`: finite, not scaled, shape (len(SIGNS),)."""
    prompt, answer = _shortened(prompt), _shortened(answer)
    asked, low = prompt.lower(), answer.lower()
    given, said = _numbers(prompt), _numbers(answer)
    known, used = set(given), set(said)
    counts = {_COUNTED[w] for w in re.findall(r"[a-z]+", asked) if w in _COUNTED}
    words = sum(w in _COUNTED for w in re.findall(r"[a-z]+", asked))
    right, wrong, results = _sums(answer)
    unused = known - used
    last = said[-1] if said else -1.0
    idle = sum(result not in used_later for result, used_later in _later(results, said))
    foreign = len(used - known - set(results))
    lines = [line for line in answer.split("\n") if line.strip()]
    question = asked.rstrip().rsplit(".", 1)[-1]
    fraction = bool(last % 1)
    end = answer.rsplit("####", 1)[-1] if "####" in answer else None
    return np.array(
        [
            np.log1p(len(answer)),
            np.log1p(len(prompt)),
            len(unused) / max(1, len(known)),
            bool(unused),
            len(known) + words - min(len(set(results)), _MANY),
            right == 0,
            right == 1,
            min(right, _MANY),
            wrong > 0,
            fraction,
            last in known,
            last in results,
            len(counts - used),
            np.log1p(answer.count("\n")),
            bool(re.search(r"\b[xyn]\b", answer)),
            len(_DOUBTS.findall(answer)),
            right / max(1, len(known) + words),
            not said,
            answer.rstrip()[-1:] in tuple(".!?"),
            min(len(answer) / max(1, len(prompt)), 20.0),
            idle,
            idle > 0,
            any(result < 0 for result in results),
            any(result % 1 for result in results),
            "how many" in question,
            "how many" in question and fraction,
            foreign,
            foreign > 1,
            np.log1p(min(abs(last), 1e9)),
            len(lines),
            np.log1p(max(map(len, lines), default=0)),
            "%" in prompt,
            "if " in asked,
            prompt.count("."),
            prompt.count(","),
            bool(_COMPARISONS.search(asked)),
            "each" in asked,
            end is not None or "\\boxed" in low,
            end is not None and bool(re.search(r"[a-z]", end)),
            len(used),
            len(given) - len(known),
        ],
        np.float64,
    )


def _later(results: list[float], said: list[float]) -> list[tuple[float, list[float]]]:
    """Return every result but the last, with the numbers said after it was worked out."""
    found = []
    for result in results[:-1]:
        at = said.index(result) if result in said else len(said)
        # What comes right behind is the same number once more: `<<2*3=6>>6`.
        found.append((result, said[at + 2 :] if said[at + 1 : at + 2] == [result] else said[at + 1 :]))
    return found


def _shortened(text: str) -> str:
    half = _LOOKED_AT // 2
    return text if len(text) <= _LOOKED_AT else text[:half] + "\n" + text[-half:]


def _numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in _NUMBER.findall(text)]


def _sums(text: str) -> tuple[int, int, list[float]]:
    """Return how many of the text's sums come out and how many do not, and what the text says they come to."""
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text.replace("$", "").replace("\\", ""))
    text = re.sub(r"(?<=\d) ?[x\u00d7] ?(?=\d)", " * ", text.replace("%", "/100"))
    right, results, wrong = 0, [], 0
    for left, said in _EQUATION.findall(text):
        try:
            value, result = _value(ast.parse(left.strip(), mode="eval").body), float(said)
        except (SyntaxError, ValueError, ZeroDivisionError, OverflowError):
            continue
        results.append(result)
        if abs(value - result) <= 0.006 * max(1.0, abs(value)):
            right += 1
        else:
            wrong += 1
    return right, wrong, results


def _value(node: ast.expr) -> float:
    """Return what an expression of numbers and + - * / comes to; it is text from outside, nothing else is looked at."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("not a sum")


def _is_json(text: str, response_format: str) -> bool:
    try:
        found = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return False
    schema = _schema(response_format)
    required = schema.get("required")
    if schema.get("type") == "object" or isinstance(required, list):
        return isinstance(found, dict) and all(key in found for key in required or () if isinstance(key, str))
    return True


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number JSON has")


def _schema(response_format: str) -> dict[str, Any]:
    """Return the schema that a response format is or holds (as OpenAI wraps it), {} where it is none."""
    try:
        found = json.loads(response_format)
    except (ValueError, RecursionError):
        return {}
    while isinstance(found, dict):
        inner = found.get("json_schema", found.get("schema"))
        if not isinstance(inner, dict):
            return found
        found = inner
    return {}
