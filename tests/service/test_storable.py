"""What may be stored and for how long: temperatures, personal data, lifetimes, prompts that refer back."""

import asyncio
import base64
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st
from waypost.v1 import router_pb2, types_pb2

from service.cache import personal
from service.cache.followups import refers_back
from service.cache.personal import kinds
from service.cache.storable import expiry, temperature
from service.clock import Clock
from service.errors import InvalidRequest
from service.settings import CacheSettings, CategorySettings, ScopeSettings
from tests.service.kit import REFERENCES, Service, build, running

REGIONS = CacheSettings().phone_regions


# ---- temperature -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("temperature=0", 0.0),
        ("temperature=0.7, top_p=1", 0.7),
        ("top_p=1;Temperature: 1.2", 1.2),
        ('{"temperature": 1.5, "top_p": 0.9}', 1.5),
        ('{"temperature": "1.5"}', 1.5),
        ('{"generation_config": {"temperature": 2}}', 2.0),
        ('{"a": {"b": [{"Temperature": 2}]}}', 2.0),
        ('{\\"temperature\\": 2}', 2.0),
        ("temperature=0.2, then temperature = +1.5", 1.5),
        ("--temperature 1.7", 1.7),
        ("temperature=1,5", 1.5),
        ("temperature=1,top_p=2", 1.0),
        ('{"temperature": null}', None),
        ("{'temperature': 1.1}", 1.1),
        ("temperature=1e1", 10.0),
        ("[1, 2]", None),
        ("greedy", None),
        ("", None),
    ],
)
def test_the_temperature_is_read_from_text_and_json(sampling: str, expected: float | None) -> None:
    assert temperature(sampling) == expected


@pytest.mark.parametrize(
    "sampling",
    [
        f"temperature{' ' * 500_000}",
        f'temperature="{" " * 500_000}',
        "temperature " * 50_000,
        f"temperature{chr(34) * 500_000}",
        f"temperature={'9' * 500_000}",
    ],
    ids=lambda sampling: sampling[:20],
)
def test_sampling_of_any_length_is_read_at_once(sampling: str) -> None:
    started = time.perf_counter()
    temperature(sampling)
    assert time.perf_counter() - started < 1


@given(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_any_sampling_is_taken(sampling: str) -> None:
    found = temperature(sampling)
    assert found is None or isinstance(found, float)


async def test_what_was_sampled_too_hot_is_not_stored(service: Service) -> None:
    hot, warm = (types_pb2.AnswerContext(sampling=f'{{"temperature": {t}}}') for t in (1.1, 1.0))
    done = await service.report(await service.decide("a question", context=hot))
    assert (done.stored, done.not_stored_because) == (
        False,
        "context.sampling: temperature 1.1 is above cache.max_temperature (1)",
    )
    assert (await service.report(await service.decide("a question", context=warm))).stored
    with pytest.raises(InvalidRequest, match=r"context\.sampling: temperature 1\.1 is above"):
        await service.put("a question", "yes", context=hot)


async def test_each_scope_may_have_a_limit_of_its_own(root: Path) -> None:
    async with running(root, cache={"scopes": {"poets": {"max_temperature": 2}}}) as service:
        hot = types_pb2.AnswerContext(sampling="temperature=1.5")
        assert (await service.report(await service.decide("a question", "poets", context=hot))).stored
        assert not (await service.report(await service.decide("a question", context=hot))).stored


# ---- personal data ---------------------------------------------------------------------------------------------

FULL_WIDTH = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}
# Keys are put together here, so that whoever searches the code for secrets finds none.
PERSONAL = {
    "e-mail address": [
        "write to jane.doe@example.com",
        "<jane+x@mail.example.co.uk>",
        "mailto:j@x.io?subject=hi",
        "ünal@exämple.de",
        "jane [at] example [dot] com",
        "jane(at)example.com",
        "?to=jane%40example.com",
        '"jane doe"@example.com',
    ],
    "phone number": [
        "Handynummer 01711234567",
        "Telefonnummer: 03012345678",
        "+1 555-123-4567",
        "call (212) 555-0199 now",
        "555-123-4567",
        "+44 20 7946 0958",
        "Tel. 030 / 12345678",
        "01 42 68 53 00",
        "0049 30 901820",
        "+4930901820",
        "020 7946 0958.",
        "tel:+34912345678",
        "my number is 2125550188",
        "Mobile: 07700900123",
        "01\u00a042\u00a068\u00a053\u00a000",
    ],
    "card number": [
        "4111 1111 1111 1111",
        "5500-0000-0000-0004",
        "378282246310005",
        "pay with 6011000990139424.",
        "4111.1111.1111.1111",
        "4111\u00a01111\u00a01111\u00a01111",
        "4111 1111 1111 1111".translate(FULL_WIDTH),
    ],
    "account number": [
        "DE89 3704 0044 0532 0130 00",
        "GB29NWBK60161331926819",
        "account number: 12345678",
        "Sort code 12-34-56",
        "de89 3704 0044 0532 0130 00",
        "DE89-3704-0044-0532-0130-00",
        "account no. 1234 5678",
        "numéro de compte 12345678901",
    ],
    "identity number": ["078-05-1120", "SSN: 078051120", "my social security number is 078 05 1120"],
    "secret key": [
        'password = "S3cr3tP@ssw0rd!"',
        "SECRET_KEY = 'django-insecure-abc123!@#%^&*(def456)ghi'",
        "AKIA" + "IOSFODNN7EXAMPLE",
        "sk-" + "proj-abcDEF1234567890abcdef",
        "ghp_" + "a1B2" * 9,
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----",
        "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "SG." + "aB3dE5fG7hI9jK1lM3nO5q" + ".aB3dE5fG7hI9jK1lM3nO5qaB3dE5fG7hI9jK1lM3nO5",
        "api_key = '" + "aB3dE5fG7hI9jK1lM3nO5'",
        "X-Api-Key: " + "0123456789abcdef" * 2,
        "gsk_" + "a1B2" * 12,
        "dop_v1_" + "0123456789abcdef" * 4,
        "pypi-" + "AgEIcHlwaS5vcmcCJGFiY2RlZmdo",
        "dapi" + "0123456789abcdef" * 2,
        "hvs." + "CAESIJ" * 6,
        ".".join(base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode().rstrip("=") for _ in range(2)) + ".abcdefghij",
    ],
}
HARMLESS = [
    "It grew by +10 000 000 a year",
    'password = "${DB_PASSWORD_1}!"',
    "pwd: 'at least 8 characters!'",
    "social security pays 1 234 567 people",
    "git@github.com:user/repo.git",
    "The year 2026-11-22 08:56:10 and 10:00 - 11:30",
    "pi is 3.14159265358979323846, or 0.123 456 789",
    "total 1,234,567.89 USD, 100 000 000 EUR",
    "order 1234567890123456 of 1760000000000",
    "192.168.100.200, version 1.2.3-4.5.6, ISBN 978-3-16-148410-0",
    "coordinates (52.520008, 13.404954)",
    "from 2019-2020 to 2021-2022, 2023 2024 2025 2026",
    "03/2014 - 10/2015 picker, 11/2015 - 02/2019 driver",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
    "UUID 123e4567-e89b-12d3-a456-426614174000",
    "password = os.environ['PASSWORD']; api_key = get_key_from_environment()",
    "@decorator\ndef f(a @ b): pass",
    "0082c36261920243009a2d3ff995c789a9 and 00-4111111111111111-a",
    "the account of 2019 and the population of 8 123 456 000",
    "DE00 0000 0000 0000 0000 00",
    "51 Franklin Street, Boston, MA 02110-1301",
    "the largest number is 2147483647; order 100-200-3000",
    "EAN 5901234123457",
    "const accessToken = getAccessTokenSilently2();",
    "meet (at) noon. Then eat.",
    "sha256 0123456789abcdef0123456789abcdef, commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
]


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in PERSONAL.items() for text in texts])
def test_personal_data_is_found_wherever_it_stands(kind: str, text: str) -> None:
    assert kind in kinds(text, REGIONS)
    for length in (personal._WINDOW - 5, personal._WINDOW, 2 * personal._WINDOW - 12):
        assert kind in kinds("lorem ipsum " * (length // 12) + text + " dolor" * 20_000, REGIONS)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_it_is_not(text: str) -> None:
    assert kinds(text, REGIONS) == []


def test_what_the_operator_publishes_is_not_personal() -> None:
    text = "Write to help@shop.example or call +1 800 555 0199."
    assert kinds(text, REGIONS, ["help@shop.example", "+1 800 555 0199"]) == []
    assert kinds(text, REGIONS, ["help@shop.example"]) == ["phone number"]


@given(st.text())
def test_any_text_is_looked_through(text: str) -> None:
    assert set(kinds(text, REGIONS)) <= set(PERSONAL)


def test_ten_megabytes_made_to_be_slow_are_looked_through() -> None:
    # A pattern that took the square of the length would not come to an end.
    units = "1", "1 ", "@", "a@b ", "0(12) 345-678 x ", "sk-", "DE00 0000 ", "account ", "secret=", "eyJaaa ", "4111 "
    assert kinds(" ".join(unit * (10_000_000 // len(unit) // len(units)) for unit in units), REGIONS) == []


@pytest.mark.parametrize("kind", PERSONAL)
async def test_an_answer_with_personal_data_is_not_stored_and_the_reason_does_not_quote_it(
    service: Service, kind: str
) -> None:
    secret = PERSONAL[kind][0]
    decision = await service.decide("a question")
    done = await service.report(decision, answer=f"It is {secret}, dear.")
    assert not done.stored
    assert kind in done.not_stored_because
    assert secret not in done.not_stored_because
    assert (await service.report(decision, answer="It is a secret.")).stored, "the token stays good"
    with pytest.raises(InvalidRequest) as error:
        await service.put("another question", secret)
    assert [field for field, _ in error.value.violations] == ["answer"]
    assert secret not in str(error.value)


async def test_a_prompt_with_personal_data_is_not_stored_either(service: Service) -> None:
    # It would be shown to whoever asks nearly the same.
    done = await service.report(await service.decide("I am jane@example.com, who are you?"), answer="A model.")
    assert "prompt: carries personal data (e-mail address)" in done.not_stored_because
    with pytest.raises(InvalidRequest, match=r"^prompt: carries personal data"):
        await service.put("I am jane@example.com, who are you?", "A model.")


async def test_in_the_scope_of_one_user_and_where_it_is_allowed_it_is_stored(root: Path) -> None:
    text = "jane@example.com"
    async with running(root, cache={"scopes": {"user:*": {"personal_data": "store"}}}) as service:
        assert (await service.report(await service.decide("who am I", "user:7"), answer=text)).stored
        assert not (await service.report(await service.decide("who am I", "users"), answer=text)).stored
    async with running(root, cache={"personal_data": "store"}) as service:
        assert (await service.report(await service.decide("who am I"), answer=text)).stored


async def test_a_large_answer_is_looked_through_to_its_end(service: Service) -> None:
    large = "word " * 200_000
    assert (await service.report(await service.decide("a question"), answer=large)).stored
    done = await service.report(await service.decide("another question"), answer=large + "jane@example.com")
    assert "e-mail address" in done.not_stored_because


# ---- lifetimes -------------------------------------------------------------------------------------------------


def test_a_lifetime_is_the_caller_s_or_the_shortest_setting_less_some_jitter() -> None:
    settings = CacheSettings(
        ttl_s=1_000,
        ttl_jitter=0.2,
        categories={"news": CategorySettings(ttl_s=100), "maths": CategorySettings(ttl_s=0)},
        scopes={"brief": ScopeSettings(ttl_s=10), "for-ever": ScopeSettings(ttl_s=0)},
    )
    assert expiry(5.0, 60.0, settings, "news") == 65.0
    for scope, of_category, longest in [
        ("a", "", 1_000),
        ("a", "unknown", 1_000),
        ("a", "news", 100),
        ("a", "maths", 1_000),
        ("brief", "news", 10),
        ("for-ever", "news", 100),
    ]:
        found = {expiry(0.0, None, settings.of(scope), of_category) for _ in range(200)}
        assert longest * 0.8 <= min(found) < longest * 0.85
        assert longest * 0.95 < max(found) <= longest
        assert len(found) > 100
    assert expiry(5.0, None, settings.of("for-ever"), "maths") == 0.0
    assert expiry(0.0, None, CacheSettings(ttl_jitter=0, ttl_s=7), "") == 7.0


def test_of_several_patterns_the_name_counts_and_else_the_longest() -> None:
    settings = CacheSettings(
        ttl_s=1,
        scopes={
            name: ScopeSettings(ttl_s=ttl) for name, ttl in {"user:*": 2, "*": 3, "user:7*": 4, "user:71": 5}.items()
        },
    )
    found = [settings.of(scope).ttl_s for scope in ("user:1", "shop", "user:72", "user:71", "user:71")]
    assert found == [2, 3, 4, 5, 5]
    assert settings.of("shop").threshold == settings.threshold


@pytest.mark.parametrize(("name", "lives"), [("maths", 60), ("law", 7 * 86_400)])
async def test_the_lifetime_of_a_category_holds_for_what_is_asked_in_it(tmp_path: Path, name: str, lives: int) -> None:
    build(tmp_path, [replace(reference, category=name) for reference in REFERENCES])
    async with running(tmp_path, cache={"ttl_jitter": 0, "categories": {"maths": {"ttl_s": 60}}}) as service:
        done = await service.report(await service.decide("prove the hard theorem"))
        entry = service.runtime.decider.answers.view.by_id("default", done.entry_id)
        assert entry is not None
        assert entry.expires_at - entry.stored_at == pytest.approx(lives)


# ---- the clock -------------------------------------------------------------------------------------------------


class Times:
    """A time of day and a steady clock, both set by hand."""

    def __init__(self, wall: float = 1_000.0) -> None:
        self.wall, self.steady = wall, 50.0

    def clock(self, floor: float = 0.0) -> Clock:
        return Clock(floor, lambda: self.wall, lambda: self.steady)

    def go_on(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds


def test_time_goes_on_though_the_clock_is_set_back_and_follows_it_forward() -> None:
    times = Times()
    clock = times.clock()
    assert clock.now() == 1_000
    times.wall -= 500
    assert clock.now() == 1_000
    times.go_on(10)
    assert clock.now() == 1_010
    times.wall = 5_000
    assert clock.now() == 5_000
    assert times.clock(floor=9_000.0).now() == 9_000, "an earlier process had seen that"


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e6, 1e6))))
def test_time_never_goes_back_nor_slower_than_the_steady_clock(steps: list[tuple[float, float]]) -> None:
    times = Times()
    clock = times.clock()
    before = clock.now()
    for steady, jump in steps:
        times.go_on(steady)
        times.wall += jump
        now = clock.now()
        assert now >= before + steady - 1e-6 * (1 + abs(before))
        before = now


async def test_a_clock_that_is_set_back_makes_no_answer_young_again(root: Path) -> None:
    async with running(root) as service:
        times = Times(1e9)
        service.runtime.decider.answers.clock = times.clock()
        await service.put("a question", "yes", ttl=Duration(seconds=60))
        times.go_on(30)
        old = types_pb2.CacheControl(max_age=Duration(seconds=20))
        assert served(await service.decide("a question")) == "yes"
        times.wall -= 3_600
        assert served(await service.decide("a question", cache=old)) == "", "it is 30 s old"
        times.go_on(31)
        assert served(await service.decide("a question")) == "", "it has lapsed"
        assert served(await service.decide("A question")) == ""
        removed = await service.invalidate(older_than=Duration(seconds=60), dry_run=True)
        assert removed.removed == 1
        await service.runtime.decider.answers.sweep()
        assert service.runtime.decider.answers.view.answers == 0


# ---- stale while revalidated -------------------------------------------------------------------------------------


async def test_of_a_lapsed_answer_one_caller_gets_the_plan_and_the_others_what_was_there(root: Path) -> None:
    async with running(root, cache={"stale_s": 100}) as service:
        times = Times(1e9)
        service.runtime.decider.answers.clock = times.clock()
        await service.put("a question", "old", ttl=Duration(seconds=60))
        times.go_on(61)
        await service.runtime.decider.answers.sweep()
        first = await service.decide("a question")
        assert first.plan.fill_token
        for prompt, match in (("a question", types_pb2.MATCH_EXACT), ("A question", types_pb2.MATCH_SEMANTIC)):
            found = (await service.decide(prompt)).answer
            assert (found.content, found.stale, found.match) == ("old", True, match)
        strict = types_pb2.CacheControl(max_age=Duration(seconds=30))
        assert served(await service.decide("a question", cache=strict)) == "", "max_age still holds"
        await service.report(first, answer="new")
        found = (await service.decide("a question")).answer
        assert (found.content, found.stale) == ("new", False)


async def test_of_many_at_once_just_one_gets_the_plan_and_after_its_failure_another(root: Path) -> None:
    async with running(root, cache={"stale_s": 100}) as service:
        times = Times(1e9)
        service.runtime.decider.answers.clock = times.clock()
        await service.put("a question", "old", ttl=Duration(seconds=60))
        times.go_on(61)
        for _ in range(2):
            answered = await asyncio.gather(*(service.decide("a question") for _ in range(200)))
            plans = [one for one in answered if one.HasField("plan")]
            assert len(plans) == 1
            await service.report(plans[0], outcome=types_pb2.OUTCOME_ERROR, answer="")
        times.go_on(100)
        assert served(await service.decide("a question")) == "", "too late"
        await service.runtime.decider.answers.sweep()
        assert service.runtime.decider.answers.view.answers == 0


async def test_without_the_setting_nothing_lapsed_is_served(service: Service) -> None:
    times = Times(1e9)
    service.runtime.decider.answers.clock = times.clock()
    await service.put("a question", "old", ttl=Duration(seconds=60))
    times.go_on(61)
    for _ in range(2):
        assert served(await service.decide("a question")) == ""
        assert served(await service.decide("A question")) == ""


# ---- prompts that refer back -------------------------------------------------------------------------------------

BACK = [
    "make it shorter",
    "Make it shorter, please.",
    "and in French?",
    "And in two sentences?",
    "translate this to German",
    "why?",
    "what about the second one?",
    "go on",
    "can you explain that again?",
    "rewrite the above in a friendlier tone",
    "Tell me more",
    "in French?",
    "Und auf Deutsch?",
    "fix it",
    "What about Germany?",
    "And for dogs?",
    "do the same for Germany",
    "Can you elaborate?",
    "Is it safe?",
    "How much does it cost?",
    "Who is he?",
    "What does that mean?",
    "Give me another example",
    "Tell me two more jokes",
    "Summarise our conversation",
    "What was my first question?",
    "Repeat your last answer, please",
    "Which one is better?",
    "Use simpler words",
    "That's wrong",
    "I don't understand",
    "In bullet points",
]
FORWARD = [
    "How do I reset my password?",
    "Why is the sky blue?",
    "What is it like to live in Spain?",
    "translate 'good morning' to German",
    "and operator",
    "Is this app safe?",
    "Is it 5 pm?",
    "Is that Einstein?",
    "continue statement in Python",
    "Is it safe to eat raw eggs?",
    "Make a cake",
    "How do I make it in Hollywood?",
    "Tell me a joke",
    "Summarise the plot of Hamlet",
    "Which is better, tea or coffee?",
    "Remove the last line of a file in bash",
    "More sleep or more exercise?",
]


@pytest.mark.parametrize("text", BACK)
def test_what_refers_back_is_known(text: str) -> None:
    assert refers_back(text)


@pytest.mark.parametrize("text", FORWARD)
def test_what_names_its_own_subject_does_not_refer_back(text: str) -> None:
    assert not refers_back(text)


async def test_a_prompt_that_refers_back_is_hit_exactly_or_not_at_all(root: Path) -> None:
    async with running(root, cache={"threshold": 0.0, "max_turns": 5}) as service:
        await service.report(await service.decide("make it shorter"), answer="shorter")
        assert served(await service.decide("make it shorter")) == "shorter"
        for near in ("make it shorter please", "how to make shorter legs"):
            decision = await service.decide(near, explain=True)
            assert served(decision) == ""
            assert not decision.plan.HasField("candidate")
        await service.put("make the table shorter", "a table")
        decision = await service.decide("make it shorter again", explain=True)
        assert served(decision) == ""
        history = [types_pb2.Message(role=role, content="a b c") for role in ("user", "assistant")]
        for text, content in (("shorten the table", "table"), ("make it shorter", "it")):
            messages = [*history, types_pb2.Message(role="user", content=text)]
            await service.report(await service.decide(messages=messages), answer=content)
        for text, content in (
            ("the table shorten", "table"),
            ("make it shorter, please", ""),
            ("make it shorter", "it"),
        ):
            messages = [*history, types_pb2.Message(role="user", content=text)]
            assert served(await service.decide(messages=messages)) == content


async def test_a_tool_s_turn_is_hit_exactly_or_not_at_all(root: Path) -> None:
    async with running(root, cache={"threshold": 0.5, "max_turns": 9}) as service:

        def turns(said: str) -> list[types_pb2.Message]:
            pairs = (("user", "weather in Paris"), ("assistant", "call weather"), ("tool", said))
            return [types_pb2.Message(role=role, content=text) for role, text in pairs]

        await service.report(await service.decide(messages=turns("sunny and warm")), answer="It is sunny.")
        assert served(await service.decide(messages=turns("sunny and warm"))) == "It is sunny."
        assert served(await service.decide(messages=turns("warm and sunny"))) == ""


def served(decision: router_pb2.DecideResponse) -> str:
    return decision.answer.content


def test_a_scope_may_differ_in_every_setting_there_is() -> None:
    every: dict[str, Any] = {"ttl_s": 1, "stale_s": 2, "max_answers": 3, "max_mib": 16, "corroborate": False}
    settings = CacheSettings(scopes={"s": ScopeSettings(**every)}).of("s")
    assert {name: getattr(settings, name) for name in every} == every
