"""The guard: refuses what embeddings do not see, and nothing that is only written otherwise."""

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from index.guard import CHECKS, compare, differences, prepare
from index.text import canonical
from index.tokens import LONGEST


def refused(one: str, other: str) -> tuple[str, ...]:
    return differences(prepare(one), prepare(other))


@pytest.mark.parametrize(
    ("check", "one", "other"),
    [
        ("numbers_differ", "Which phone is best under 15000?", "Which phone is best under 12000?"),
        ("numbers_differ", "Should I update from version 7 to 8?", "Should I update from version 8 to 8?"),
        ("numbers_differ", "What are three uses of salt?", "What are five uses of salt?"),
        ("units_differ", "Is 5 kg a lot for a bag?", "Is 5 lb a lot for a bag?"),
        ("symbols_differ", "What is 5 + 3?", "What is 5 * 3?"),
        ("dates_differ", "Is the shop open on Monday?", "Is the shop open on Sunday?"),
        ("names_differ", "What is it like to live in Norway?", "What is it like to live in Fiji?"),
        ("names_differ", "what is the population of india?", "what is the population of china?"),
        ("names_differ", "Why did Ada Lovelace write about engines?", "Why did Grace Hopper write about engines?"),
        ("names_differ", "Why did Ada Lovelace write about engines?", "Why did Grace Lovelace write about engines?"),
        ("names_differ", "Should India help the Indians abroad?", "Should Kenya help the Indians abroad?"),
        ("names_differ", "Who Is The Best Author After Tolkien Today", "Who Is The Best Author After Asimov Today"),
        ("names_differ", "Who directed Alien?", "Who directed Aliens?"),
        ("opposite", "Is the sum greater than 10?", "Is the sum less than 10?"),
        ("opposite", "Can I get a refund after 30 days?", "Can I get a refund within 30 days?"),
        ("opposite", "Show me my last invoice", "Show me my next invoice"),
        ("negation", "Allow cookies only from here", "Allow cookies from here"),
        ("negation", "How do I allow cookies?", "How do I not allow cookies?"),
        ("negation", "Can I travel with a passport?", "Can I travel with no passport?"),
        ("opposite", "How can I become more patient?", "How can I become less patient?"),
        ("opposite", "What should I do before surgery?", "What should I do after surgery?"),
        ("opposite", "Where can I buy old coins?", "Where can I sell old coins?"),
        ("opposite", "Is the page visible to guests?", "Is the page invisible to guests?"),
        ("conjunction", "Is Ann a nurse or a doctor?", "Is Ann a nurse and a doctor?"),
        ("order_differs", "How do I convert pdf to html?", "How do I convert html to pdf?"),
        ("order_differs", "How do I convert liters to kilograms?", "How do I convert kg to liters?"),
        ("order_differs", "Is rust faster than haskell?", "Is haskell faster than rust?"),
        ("roles_differ", "Does Sean believe Victoria?", "Does Victoria believe Sean?"),
        ("roles_differ", "Does Sean believe Victoria?", "Is Sean believed by Victoria?"),
        ("roles_differ", "Would he reject her?", "Would she reject him?"),
        ("roles_differ", "If Ann and Tom wed, is his family happy?", "If Ann and Tom wed, is Ann's family happy?"),
        ("language_differs", "What is the weather in the city?", "¿Qué tiempo hace en la ciudad de los Reyes?"),
        ("language_differs", "What is the weather like?", "Какая сегодня погода?"),
        (
            "numbers_differ",
            "How much is it for 3 adults and 5 children?",
            "How much is it for 5 adults and 3 children?",
        ),
        ("numbers_differ", "Is it below -5 degrees?", "Is it below 5 degrees?"),
        ("numbers_differ", "Is it below -5.5 degrees?", "Is it below -55 degrees?"),
        ("numbers_differ", "How do I install Python 3.10?", "How do I install Python 3.1?"),
        ("numbers_differ", "Which error is E1234?", "Which error is E1235?"),
        ("numbers_differ", "Who won the first world war?", "Who won World War II?"),
        ("numbers_differ", "Is one cup of sugar enough?", "Are two cups of sugar enough?"),
        ("numbers_differ", "Is 25 too late?", "Is twenty six too late?"),
        ("numbers_differ", "A dozen eggs, please", "A hundred eggs, please"),
        ("question_differs", "When was the tower built?", "Where was the tower built?"),
        ("question_differs", "Why should I learn Python?", "How should I learn Python?"),
        ("units_differ", "Is 5% a good rate?", "Is 5 a good rate?"),
        ("units_differ", "Is $5 enough?", "Is €5 enough?"),
        ("units_differ", "Is it open at 10am?", "Is it open at 10 pm?"),
        ("dates_differ", "What was the price of gold yesterday?", "What is the price of gold today?"),
        ("dates_differ", "Is the shop open on Monday?", "Is the shop open?"),
        ("dates_differ", "Can I return it by Friday?", "Can I return it before Friday?"),
        ("dates_differ", "Can I return it by Friday?", "Can I return it on Friday?"),
        ("dates_differ", "Is it open until tomorrow?", "Is it open tomorrow?"),
        ("dates_differ", "Who was president before 2010?", "Who was president in 2010?"),
        ("dates_differ", "Must I pay by 5 pm?", "Must I pay at 5 pm?"),
        ("dates_differ", "Must I pay before the end of the month?", "Must I pay after the end of the month?"),
        ("dates_differ", "Is it free since next week?", "Is it free until next week?"),
        ("terms_differ", "Delete /home/ann/a.txt", "Delete /home/ann/b.txt"),
        ("terms_differ", "What is in config.yaml?", "What is in config.json?"),
        ("terms_differ", "Write to ann@x.com", "Write to bob@x.com"),
        ("terms_differ", "Open http://x.com/a", "Open http://x.com/b"),
        ("terms_differ", "What is MAX_SIZE for?", "What is MIN_SIZE for?"),
        ("terms_differ", "Is sulfate healthy?", "Is sulfite healthy?"),
        ("verbatim_differs", "What does a[1:] do?", "What does a[:-1] do?"),
        ("verbatim_differs", "What does a && b mean?", "What does a || b mean?"),
        ("verbatim_differs", "Solve 2x-3=7", "Solve 2x/3=7"),
        ("verbatim_differs", "Kann ich hier rauchen?", "Kann ich hier nicht rauchen?"),
        ("verbatim_differs", "Je peux fumer ici ?", "Je ne peux pas fumer ici ?"),
        ("verbatim_differs", "Passwort ändern", "Passwort löschen"),
        ("verbatim_differs", "我可以退款吗", "我不可以退款吗"),
        ("verbatim_differs", "можно ли мне курить", "нельзя ли мне курить"),
        ("terms_differ", "What is the difference between 多少 and 几?", "What is the difference between 画 and 画画?"),
        ("terms_differ", "What is π in physics?", "What is β in physics?"),
        ("terms_differ", "Translate 我爱你 for me", "Translate 你爱我 for me"),
        ("symbols_differ", "What does 🍎 mean?", "What does 🍌 mean?"),
        ("names_differ", "What is hepatitis A?", "What is hepatitis B?"),
        ("names_differ", "Who is Eva Kowalska?", "Who is Eva Kowalski?"),
        ("negation", "I used to be able to log in, why?", "I am able to log in, why?"),
        ("opposite", "Do all birds fly?", "Do some birds fly?"),
        ("roles_differ", "Can you send me money?", "Can I send you money?"),
        ("roles_differ", "Can my landlord sue me?", "Can I sue my landlord?"),
        ("roles_differ", "How do I find out who called me?", "How do I find out who I called?"),
        ("roles_differ", "Who taught Plato?", "Who did Plato teach?"),
        ("roles_differ", "Are all squares rectangles?", "Are all rectangles squares?"),
        ("roles_differ", "What is the effect of stress on sleep?", "What is the effect of sleep on stress?"),
        ("roles_differ", "Replace tabs with spaces", "Replace spaces with tabs"),
        ("order_differs", "Do you ship to Canada?", "Do you ship from Canada?"),
        ("opposite", "Is rust faster than haskell?", "Is rust as fast as haskell?"),
        ("opposite", "Which is heavier, gold or lead?", "Which is lighter, gold or lead?"),
        ("opposite", "Is the tide rising?", "Is the tide falling?"),
        ("opposite", "Is it useful for dogs?", "Is it useless for dogs?"),
        ("opposite", "Is the shape typical?", "Is the shape atypical?"),
        ("opposite", "What is macroeconomics?", "What is microeconomics?"),
        ("opposite", "Are pets allowed?", "Are pets forbidden?"),
        ("opposite", "Is it thin?", "Does it thicken?"),
        ("opposite", "How do I fold the paper once?", "How do I fold the paper twice?"),
        ("opposite", "Who is the current head of state?", "Who is the former head of state?"),
        ("opposite", "A song about a red car", "A song about a blue car"),
        ("negation", "How do I get caught?", "How do I avoid getting caught?"),
        ("negation", "Are sugar-free drinks healthy?", "Are sugary drinks healthy?"),
        ("numbers_differ", "Who was the eleventh king?", "Who was the twelfth king?"),
        ("numbers_differ", "Who was Louis XIV?", "Who was Louis XVI?"),
        ("numbers_differ", "How do I use GPT-4?", "How do I use GPT-4o?"),
        ("numbers_differ", "Rice for a dozen people", "Rice for half a dozen people"),
        ("names_differ", "How do I reset my iPhone 13?", "How do I reset my iPhone 13 Pro?"),
        ("names_differ", "What is York known for?", "What is New York known for?"),
        ("units_differ", "How many days are in a year?", "How many weeks are in a year?"),
        ("units_differ", "What can I buy for 10 cents?", "What can I buy for 10 dollars?"),
        ("units_differ", "Is a 100 MB download fast?", "Is a 100 Mb download fast?"),
        ("terms_differ", "What does i++ do?", "What does ++i do?"),
        ("terms_differ", "What does ls -l do?", "What does ls -L do?"),
        ("terms_differ", "Explain int *p", "Explain int &p"),
        ("terms_differ", "What is type A+ blood?", "What is type A- blood?"),
        ("symbols_differ", "What does & do in C?", "What does * do in C?"),
        ("numbers_differ", "What is .5 of 10?", "What is 5 of 10?"),
        ("verbatim_differs", "What is 5!", "What is 5?"),
        ("verbatim_differs", "Fix the typo: teh cat", "Fix the typo: the cat"),
        ("verbatim_differs", "What is the sha256 of Test?", "What is the sha256 of test?"),
        ("verbatim_differs", "Capitalise: john smith", "Capitalise: John Smith"),
        ("verbatim_differs", "Punctuate: a b c", "Punctuate: a, b, c"),
        ("verbatim_differs", "How many letters are in Lollipop?", "How many letters are in Lolipop?"),
        ("verbatim_differs", "Is this sentence correct: its late", "Is this sentence correct: it's late"),
        ("symbols_differ", "What does $? mean in bash?", "What does $! mean in bash?"),
        ("symbols_differ", "What does the ? operator do", "What does the ! operator do"),
        ("names_differ", "Is the iPhone 15 Pro good?", "Is the iPhone 15 Pro Max good?"),
        ("names_differ", "How do I use gpt-4o?", "How do I use gpt-4o-mini?"),
        ("opposite", "What is a symmetric key?", "What is an asymmetric key?"),
        ("opposite", "Can employees take leave?", "Must employees take leave?"),
        ("opposite", "Is voting mandatory?", "Is voting optional?"),
        ("opposite", "Summarise it in one sentence", "Summarise it in one paragraph"),
        ("opposite", "Do I pay until May?", "Do I pay from May?"),
        ("units_differ", "How much is 10 sq ft?", "How much is 10 sq m?"),
        ("units_differ", "What was it like a century ago?", "What was it like a decade ago?"),
        ("terms_differ", "What is src/main.rs for?", "What is src/lib.rs for?"),
        ("terms_differ", "What is 10:00 UTC+5?", "What is 10:00 UTC-5?"),
        ("terms_differ", "Explain !x", "Explain x"),
        ("units_differ", "Is a 5 mW laser safe?", "Is a 5 MW laser safe?"),
        ("order_differs", "Raise the price by 10%", "Raise the price to 10%"),
        ("opposite", "How do I pin a tab?", "How do I unpin a tab?"),
        ("opposite", "Should I carry an ID?", "Must I carry an ID?"),
        ("opposite", "Should I refinance now?", "Can I refinance now?"),
        ("opposite", "How do I hand in a test?", "How do I hand out a test?"),
        ("opposite", "How do I look up a child?", "How do I look after a child?"),
        ("order_differs", "Do I pay before arrival?", "Do I pay upon arrival?"),
        ("order_differs", "Do I have to register by Friday?", "Do I have to register after Friday?"),
        ("order_differs", "May I swap up to the start date?", "May I swap after the start date?"),
        ("question_differs", "Why does a compass point north?", "How does a compass point north?"),
        ("question_differs", "How come tides turn?", "How do tides turn?"),
    ],
)
def test_what_changes_the_answer_is_refused(check: str, one: str, other: str) -> None:
    assert check in refused(one, other)
    assert check in refused(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What's the best way to learn chess?", "What is the best way to learn chess?"),
        ("Why don't cats like water?", "Why do not cats like water?"),
        ("cant i pay later", "Can't I pay later?"),
        ("How has social media changed the world?", "How has social media changed teh world?"),
        ("What is the funniest thing that happened?", "What is the funniest thin gthat happened?"),
        ("Who is Hillary Clinton?", "Who is Hilary Clinton?"),
        ("What do I need without a visa?", "What do I need wihtout a visa?"),
        ("Is it a lot of work?", "Is it alot of work?"),
        ("Phones under 15k", "Phones under 15,000"),
        ("Is Rs. 500 enough?", "Is 500 rupees enough?"),
        ("How do I get rid of ants?", "What is a good way to get rid of ants?"),
        ("What is the difference between phase and angle?", "What is the difference between angle and phase?"),
        ("Did James want the school?", "Was the school wanted by James?"),
        ("Can I move from Spain to Norway?", "Can I move to Norway from Spain?"),
        ("What is better, Python or Java?", "What is better, Java or Python?"),
        ("Which universities in Europe are good?", "Which European universities are good?"),
        ("Where is the U.S. embassy?", "Where is the US embassy?"),
        ("東京の天気は?", "東京の天気は"),
        ("¿Dónde está mi pedido?", "Dónde está mi pedido"),
        ("Wie kann ich mein Passwort ändern?", "wie kann ich mein passwort ändern"),
        ("What does print(x) do?", "What does  print(x) do"),
        ("How much is 5kg of rice?", "How much is 5 kg of rice?"),
        ("Remind me at 10am", "Remind me at 10 AM"),
        ("Are 3\u20134 days enough?", "Are 3-4 days enough?"),
        ("Who won World War II?", "Who won the second world war?"),
        ("Is twenty five too late?", "Is 25 too late?"),
        ("Is twenty one too late?", "Is 21 too late?"),
        ("Is one hour enough?", "Is 1 hour enough?"),
        ("What's the price today?", "What is the price?"),
        ("Is the universe infinite or not?", "Is the universe infinite?"),
        ("Thanks 😊 How do I pay?", "Thanks, how do I pay?"),
        ("Are 500 and 1000 notes good?", "Are 1000 and 500 notes good?"),
        ("Can I send item(s) back?", "can I send item(s) back"),
        ("Who was the 16th president?", "Who was the sixteenth president?"),
        ("What's new in v1.2.3?", "What's new in 1.2.3?"),
        ("Is gluten free bread healthy?", "Is gluten-free bread healthy?"),
        ("What are the pros & cons of solar power?", "What are the pros and cons of solar power?"),
        ("How do I pay ?", "How do I pay?"),
        ("Why is it late ? it was on time", "Why is it late? It was on time."),
        ("Is there a way for me to learn chess?", "Can I learn chess?"),
        ("How do I write a letter to the bank?", "how can I write a letter to the bank"),
        ("Is .5 enough?", "Is 0.5 enough?"),
        ("Is it illegal to jaywalk?", "Is jaywalking illegal?"),
        ("How do I know if someone blocked me?", "How do I know if I was blocked by someone?"),
        ("How many calories are in an egg?", "How many calories does an egg have?"),
        ("How to download videos off a site?", "How do I download videos from a site?"),
        ("Who is the president of the United States?", "Who is the US president?"),
        ("Causes of WWII", "Causes of World War 2"),
        ("Is Zürich nice?", "Is Zurich nice?"),
        ("Is it OK to drink coffee?", "Is it okay to drink coffee?"),
        ("Good morning, how do I pay?", "How do I pay?"),
        ("How hot is 30 °C?", "How hot is 30 degrees Celsius?"),
        ("What is 5 \u00d7 3?", "What is 5 x 3?"),
        ("Best phone under $500", "Best phone under 500 dollars"),
        ("When did WW1 begin?", "When did World War I start?"),
        ("I lost bags", "I lost my bags"),
        ("pancake recipe", "recipe for pancakes"),
        ("Is it an aluminium pan?", "Is it an aluminum pan?"),
        ("Why do tides turn?", "How come tides turn?"),
        ("Why is sleep important?", "How is sleep important?"),
        ("Do I have to carry an ID?", "Must I carry an ID?"),
        ("Can I leave early?", "May I leave early?"),
        ("How can I refinance?", "How should I refinance?"),
        ("What can I take on a plane?", "What can I take in a plane?"),
        ("Who did you invite?", "Whom did you invite?"),
        ("Which colour is it?", "Which color is it?"),
        ("How long is it to transfer money?", "How long is it after I transfer money?"),
        ("Have I met you in the past?", "Have I met you before?"),
        ("Is it done on Friday?", "Is it done Friday?"),
        ("Can I pay until Friday?", "Can I pay till Friday?"),
        ("Is it open from Monday to Friday?", "Is it open Monday to Friday?"),
        ("What is new since 2020?", "What is new from 2020?"),
        ("Must I pay before noon?", "Must I pay prior to noon?"),
        ("Is it open up to 5 pm?", "Is it open until 5 pm?"),
        ("Show sales by month", "Show the sales by the month"),
    ],
)
def test_what_is_only_written_otherwise_passes(one: str, other: str) -> None:
    assert refused(one, other) == ()


def test_a_name_on_one_side_is_left_to_the_verifier_and_a_number_is_not() -> None:
    assert refused("Who is Donald Knuth?", "Who is Knuth?") == ()
    assert refused("What is the best phone?", "What is the best phone in 2030?") == ("numbers_differ",)


def test_house_is_no_typo_of_mouse_but_huose_is_one_of_house() -> None:
    one, other = prepare("Can a cat live in a house?"), prepare("Can a cat live in a mouse?")
    assert compare(one, other).typos == 0
    assert compare(one, prepare("Can a cat live in a huose?")).typos == 1


@pytest.mark.parametrize(
    ("one", "other"), [("mRNA", "tRNA"), ("prednisone", "prednisolone"), ("lucknow", "ahmedabad"), ("IPv4", "IPv6")]
)
def test_terms_that_look_alike_are_no_typos(one: str, other: str) -> None:
    assert refused(f"What is {one} for?", f"What is {other} for?") != ()


def test_two_first_names_are_never_a_typo() -> None:
    assert "names_differ" in refused("Is Christian at home?", "Is Christina at home?")


def test_a_text_too_long_to_be_read_whole_is_refused() -> None:
    long = prepare("word " * LONGEST)
    assert long.cut
    assert "too_long" in differences(long, long)


def test_only_known_checks_are_named() -> None:
    assert set(refused("Is Ann 5 or 6 on Monday?", "Is Tom not 7 and 8 on Friday?")) <= set(CHECKS)


WORDS = (
    "who", "Ann", "Tom", "5", "6.5", "1,000", "not", "never", "by", "was", "seen", "seeing", "he", "her", "from", "to",
    "than", "before", "K", "kg", "$", "%", "+", "May",
    "東", "שלום", "naïve", "don't", "can't", "U.S.", "C++", "million",
    "dozen", "or", "and", "🙂", "\x00", "\ud800", "½", "²", "٣", "'", "''", "n't", "Mom's", "5k", "a.m.", "İ", "ǆ",
)  # fmt: skip
texts = st.one_of(
    st.text(max_size=200),
    st.text(st.characters(categories=["Cs", "Cc", "Lo", "So", "Nd", "No", "Mn"]), max_size=80),
    st.lists(
        st.sampled_from(WORDS),
        max_size=30,
    ).map(" ".join),
)


@given(texts)
@example("\x00")
@example("\ud800'")
@example("1" * 5000)
@example("9" * 15 + " trillion")
@example("²")
@example("ß" * LONGEST)
@example("'" * 300)
@example("🙂" * 5000)
def test_any_text_can_be_prepared_and_does_not_differ_from_itself(text: str) -> None:
    prepared = prepare(text)
    assert prepared == prepare(text)
    assert len(prepared.words) == len(prepared.stems) == len(prepared.weights) == len(prepared.kinds)
    assert differences(prepared, prepared) == (("too_long",) if prepared.cut else ())


@given(texts, texts)
def test_differences_are_the_same_both_ways(one: str, other: str) -> None:
    a, b = prepare(one), prepare(other)
    assert differences(a, b) == differences(b, a)


@given(texts)
@example("0\r<")
@example("{\x85 \r\n }")
@example("0\rA")
def test_canonical_text_says_the_same(text: str) -> None:
    if len(text) < LONGEST and len(canonical(text)) < LONGEST:
        assert differences(prepare(text), prepare(canonical(text))) == ()


@given(texts.filter(lambda text: len(text) < 200))
def test_the_words_of_a_text_prepare_to_themselves(text: str) -> None:
    # What was normalised once is not normalised further: kinds may be lost with the capitals, words are not.
    words = [w for w in prepare(text).words if w.isascii() and w.isalpha()]
    assert list(prepare(" ".join(words)).words) == words


def test_prepared_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        prepare("a").cut = True  # type: ignore[misc]
