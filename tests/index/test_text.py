"""Canonical text, keys and fingerprints: what is the same stays the same, all else differs."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from index.records import Message
from index.text import (
    EMPTY_CONTEXT,
    Context,
    answer_key,
    canonical,
    content_hash,
    context_fingerprint,
    digest,
    plain,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
# Little alphabets make collisions by concatenation likely, if there are any.
TRICKY = st.text("ab\x00\x01:/ \n", max_size=6)
SPACED = st.text("aé\u0301\u200b \t\r\n\x0b\x1c\x85\u2028", max_size=20)
CONTEXTS = st.builds(Context, TRICKY, TRICKY, TRICKY, TRICKY, st.dictionaries(TRICKY, TRICKY, max_size=3))
HISTORIES = st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), TRICKY), max_size=3)


@given(st.one_of(TEXT, SPACED))
def test_canonical_text_is_its_own_canonical_text(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@given(st.one_of(TEXT, SPACED))
def test_composed_and_decomposed_spelling_are_the_same(text: str) -> None:
    assert canonical(unicodedata.normalize("NFD", text)) == canonical(unicodedata.normalize("NFC", text))


@given(st.lists(st.text("abcé .", max_size=10), max_size=5))
def test_line_ends_do_not_matter(lines: list[str]) -> None:
    assert canonical("\r\n".join(lines)) == canonical("\n".join(lines)) == canonical("\r".join(lines))


@given(TEXT, st.text(" \t\r\n", max_size=5))
def test_white_space_around_does_not_matter(text: str, space: str) -> None:
    assert canonical(space + text + space) == canonical(text)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Paris", "paris"),
        ("a b", "a  b"),
        ("a b", "ab"),
        ("a\nb", "a b"),
        ("a\nb", "a\n\nb"),
        ("  a\n  b", "  a\nb"),
        ("what?", "what"),
        ("ﬁ", "fi"),
        ("x²", "x2"),
        ("a\u200bb", "ab"),
        ("a\x00", "a"),
    ],
)
def test_what_a_reader_could_mean_is_kept(one: str, other: str) -> None:
    assert canonical(one) != canonical(other)


@given(st.lists(TRICKY, max_size=5), st.lists(TRICKY, max_size=5))
def test_a_digest_is_the_same_only_for_the_same_parts(one: list[str], other: list[str]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


@given(*[st.tuples(TRICKY, st.binary(min_size=16, max_size=16), TRICKY)] * 2)
def test_a_key_is_the_same_only_for_the_same_scope_context_and_text(
    one: tuple[str, bytes, str], other: tuple[str, bytes, str]
) -> None:
    assert (answer_key(*one) == answer_key(*other)) == (one == other)
    assert len(answer_key(*one)) == 32


@given(TRICKY, TRICKY, TRICKY)
def test_moving_the_border_between_scope_and_text_gives_another_key(a: str, b: str, c: str) -> None:
    keys = {answer_key(a + b, EMPTY_CONTEXT, c), answer_key(a, EMPTY_CONTEXT, b + c)}
    assert len(keys) == (2 if b else 1)


@given(CONTEXTS, HISTORIES, CONTEXTS, HISTORIES)
def test_a_fingerprint_is_the_same_only_for_the_same_context_and_history(
    context: Context, history: list[Message], other: Context, other_history: list[Message]
) -> None:
    same = context == other and history == other_history
    assert (context_fingerprint(context, history) == context_fingerprint(other, other_history)) == same
    assert len(context_fingerprint(context, history)) == 16


@given(st.dictionaries(TRICKY, TRICKY, min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_extra_does_not_matter(extra: dict[str, str], chance: object) -> None:
    names = list(extra)
    chance.shuffle(names)  # type: ignore[attr-defined]
    shuffled = {name: extra[name] for name in names}
    assert context_fingerprint(Context(extra=shuffled)) == context_fingerprint(Context(extra=extra))


def test_every_part_of_a_context_counts() -> None:
    parts = [
        Context(),
        Context(system_prompt="x"),
        Context(tools="x"),
        Context(response_format="x"),
        Context(sampling="x"),
        Context(extra={"x": ""}),
        Context(extra={"": "x"}),
        Context(extra={"x": "x"}),
        Context(extra={"x": "", "": "x"}),
    ]
    histories = [
        (),
        (Message("user", "x"),),
        (Message("assistant", "x"),),
        (Message("user", "x"), Message("user", "x")),
        (Message("user", "xuserx"),),
        (Message("", ""),),
    ]
    found = {context_fingerprint(context, history) for context in parts for history in histories}
    assert len(found) == len(parts) * len(histories)


def test_extra_and_history_do_not_run_into_each_other() -> None:
    extra = context_fingerprint(Context(extra={"user": "x"}))
    history = context_fingerprint(Context(), [Message("user", "x")])
    assert extra != history


def test_a_missing_context_is_an_empty_one() -> None:
    assert context_fingerprint(Context()) == EMPTY_CONTEXT


def test_a_lone_surrogate_has_a_key_of_its_own() -> None:
    assert len({answer_key("s", EMPTY_CONTEXT, text) for text in ("\ud800", "\ud801", "?", "\ufffd")}) == 4


@given(TRICKY, TRICKY, TRICKY, TRICKY)
def test_a_content_hash_is_of_one_encoder_and_one_text(a: str, b: str, c: str, d: str) -> None:
    assert (content_hash(a, b) == content_hash(c, d)) == ((a, b) == (c, d))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How do I  reset it?", "how do i reset it", True),
        ("It\u2019s \u201cfine\u201d\u2026", "it's 'fine'", True),
        ("a-b", "a b", False),
        ("x + y", "x - y", False),
        ("its", "it's", False),
    ],
)
def test_plain_texts_differ_in_words_and_telling_signs_alone(one: str, other: str, *, same: bool) -> None:
    assert (plain(one) == plain(other)) == same
