"""The acceptor: it learns what a right answer looks like, says how well, and keeps quiet where it learned nothing."""

from pathlib import Path

import numpy as np
import pytest

from index.acceptor import Acceptor, area, fit_acceptor, log_odds
from index.build import build_index
from index.encoder import HashEncoder, encode_texts
from index.errors import GenerationError, InputError
from index.generation import Generation, load_generation, verify_generation
from index.judged import JudgedAnswer
from index.signs import signs
from tests.index.answers import meadows, sums
from tests.service.kit import REFERENCES, catalogue


def fitted(answers: list[JudgedAnswer]) -> Acceptor:
    encoder = HashEncoder()
    prompts = encode_texts(encoder, [a.prompt for a in answers]).astype(np.float64)
    return fit_acceptor(answers, prompts, encode_texts(encoder, [a.answer for a in answers]).astype(np.float64))


def chance(acceptor: Acceptor, answer: JudgedAnswer, prior: float = 0.5) -> float:
    vectors = np.concatenate(encode_texts(HashEncoder(), [answer.prompt, answer.answer])).astype(np.float64)
    return 1 / (1 + np.exp(-acceptor.logit(answer.model, prior, signs(answer.prompt, answer.answer), vectors)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def acceptor() -> Acceptor:
    return fitted(sums(400))


def test_what_it_states_is_what_new_answers_show(acceptor: Acceptor) -> None:
    new = sums(600, seed=9)
    p = np.array([chance(acceptor, answer) for answer in new])
    right = np.array([answer.correct for answer in new], np.float64)
    assert area(p, right) == pytest.approx(acceptor.auc, abs=0.06)
    assert acceptor.auc > 0.85
    sure = p > 0.8
    assert sure.sum() > 100
    assert right[sure].mean() == pytest.approx(p[sure].mean(), abs=0.07)
    assert right[p < 0.3].mean() < 0.3


def test_a_model_it_has_not_seen_is_judged_from_what_was_expected_of_it(acceptor: Acceptor) -> None:
    answer = JudgedAnswer("What is 7 plus 8?", "7 + 8 = 15", "nobody", correct=True)
    low, high = chance(acceptor, answer, 0.2), chance(acceptor, answer, 0.9)
    assert 0.2 < low < high
    assert chance(acceptor, JudgedAnswer(answer.prompt, "7 + 8 = 16", "nobody", correct=False), 0.9) < 0.9


def test_where_answers_say_nothing_it_says_nothing() -> None:
    random = np.random.default_rng(2)
    noise = [JudgedAnswer(f"Question {i}", "Yes.", "small-1", correct=bool(random.random() < 0.6)) for i in range(300)]
    acceptor = fitted(noise)
    assert not acceptor.embeds
    assert acceptor.auc < 0.65
    assert chance(acceptor, noise[0]) == pytest.approx(0.6, abs=0.15)


def test_embeddings_take_part_where_they_help() -> None:
    acceptor = fitted(meadows(400))
    assert acceptor.embeds
    assert acceptor.auc > 0.95


def test_it_is_stored_in_the_generation_and_checked(tmp_path: Path) -> None:
    answers = sums(100)
    built = [
        build_index(REFERENCES, catalogue(), HashEncoder(), tmp_path / name, answers=answers) for name in ("a", "b")
    ]
    assert built[0].generation == built[1].generation  # the same build, the same id
    folder = tmp_path / "a" / built[0].generation
    loaded: Generation = load_generation(folder)
    assert loaded.acceptor is not None
    assert built[0].acceptor is not None
    for answer in answers[:20]:
        assert chance(loaded.acceptor, answer) == pytest.approx(chance(built[0].acceptor, answer))
    content = (folder / "acceptor.npz").read_bytes()
    (folder / "acceptor.npz").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(GenerationError, match=r"acceptor\.npz: damaged"):
        verify_generation(folder)


def test_a_build_without_answers_has_none_unless_one_is_handed_on(tmp_path: Path, acceptor: Acceptor) -> None:
    for given in (None, acceptor):
        built = build_index(REFERENCES, catalogue(), HashEncoder(), tmp_path, acceptor=given)
        assert (built.acceptor is None) == (given is None)
        assert (load_generation(tmp_path / built.generation).acceptor is None) == (given is None)


@pytest.mark.parametrize("many", [0, 59])
def test_too_few_answers_are_refused(many: int) -> None:
    with pytest.raises(InputError, match="at least 60, 15 right and 15 wrong"):
        fitted(sums(max(many, 1)))


def test_answers_that_are_all_right_are_refused() -> None:
    with pytest.raises(InputError, match="of which 100 are right"):
        fitted([JudgedAnswer(f"{i}", "a", "small-1", correct=True) for i in range(100)])


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "acceptor.npz"
    for content in (b"", b"nothing", b"PK\x03\x04"):
        path.write_bytes(content)
        with pytest.raises(GenerationError, match="acceptor"):
            Acceptor.load(path)
    np.savez(path, signs=np.array(["other"]))
    with pytest.raises(GenerationError):
        Acceptor.load(path)


def test_log_odds_stay_finite() -> None:
    assert log_odds(0.5) == 0
    assert -7 < log_odds(0.0) < 0 < log_odds(1.0) < 7
