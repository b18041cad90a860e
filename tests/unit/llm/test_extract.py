from __future__ import annotations

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maestro_dagster.errors import ModelError
from maestro_dagster.llm.builtin import answer_extractive
from maestro_dagster.llm.extract import Document, ExtractLimits, extract_summary
from maestro_dagster.llm.interface import ModelRequest
from maestro_dagster.llm.text import count_words, has_phrase, split_sentences, strip_markup

_SUBJECTS = ["The commission", "A research group", "The city council", "An open laboratory", "The new agency"]
_VERBS = ["published", "rejected", "tested", "funded", "reviewed", "delayed"]
_OBJECTS = ["a policy on training data", "its audit of large models", "rules for public research",
            "a plan for safer robots", "the yearly budget for schools"]  # fmt: skip


def make_documents(count: int = 8, sentences: int = 12, seed: int = 1) -> list[Document]:
    rng = random.Random(seed)
    return [
        Document(
            f"Entry {number}",
            " ".join(
                f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)} in district "
                f"{number}{place} after {rng.randint(2, 90)} days of talks."
                for place in range(sentences)
            ),
        )
        for number in range(count)
    ]


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(3, 25))
@settings(max_examples=30, deadline=None)
def test_length_and_keywords_hold_and_every_sentence_stands_in_the_input(
    seed: int, count: int, sentences: int
) -> None:
    documents = make_documents(count, sentences, seed)
    extract = extract_summary(documents, "policy", ExtractLimits(200, 400, ("policy", "research")))
    assert extract.words <= 400
    assert extract.words == count_words(extract.text)
    if extract.words_read >= 300:
        assert extract.words >= 200
    else:
        assert extract.words >= 200 or extract.notes
    whole = " ".join(document.text for document in documents)
    for paragraph in extract.text.split("\n\n"):
        for sentence in split_sentences(paragraph.partition("** ")[2]):
            assert sentence in whole
    for keyword in ("policy", "research"):
        assert has_phrase(extract.text, keyword) or not has_phrase(whole, keyword)


@given(st.integers(0, 1000), st.integers(18, 60))
@settings(max_examples=30, deadline=None)
def test_a_narrow_limit_holds(seed: int, most: int) -> None:
    assert extract_summary(make_documents(4, 4, seed), "x", ExtractLimits(most, most)).words <= most


def test_one_tag_without_an_end_takes_no_time() -> None:
    began = time.process_time()
    extract_summary([Document("", "<" + "a" * 64 * 1024)] * 4, "x", ExtractLimits())
    assert time.process_time() - began < 10


def test_the_same_input_gives_the_same_text() -> None:
    limits = ExtractLimits(100, 200)
    assert extract_summary(make_documents(), "x", limits) == extract_summary(make_documents(), "x", limits)


def test_the_prompt_draws_the_choice() -> None:
    text = (
        "Banks raised their rates again on Tuesday morning. Whales returned to the northern bay this spring. "
        "Trains to the coast will run twice an hour now. Glaciers lost more ice than ever."
    )
    documents = [Document("", text)]
    for word, wanted in (("whales", "Whales"), ("glaciers", "Glaciers"), ("trains", "Trains")):
        assert extract_summary(documents, f"Tell me of {word}", ExtractLimits(1, 12)).text.startswith(wanted)


def test_too_little_input_is_said_and_nothing_is_invented() -> None:
    text = "The council agreed on a plan for the river. The mayor will sign it on Friday."
    extract = extract_summary([Document("", text)], "river", ExtractLimits(200, 400, ("research",)))
    assert extract.text == text
    assert "16 words instead of 200" in extract.notes[0]
    assert "research" in extract.notes[1]
    assert extract_summary([], "x", ExtractLimits()).notes == ("the input holds no whole sentence",)


def test_repeated_sentences_are_taken_once() -> None:
    text = "The council agreed on a plan for the river. " * 50
    assert extract_summary([Document("", text)] * 3, "river", ExtractLimits(50, 100)).words == 9


def test_markup_code_and_links_stay_out() -> None:
    html = (
        "<h1>News</h1><p>The <b>council</b> agreed&nbsp;on a <a href='https://x.y'>plan</a> "
        "for the river.</p>"
        "<script>alert('It agreed on many things.')</script><pre>x = 1. Then it ran.</pre><!-- Hidden. -->"
        "<p>See https://example.com/a.b now. The post X appeared first on Y.</p>"
        "\n\n```\nCode is not a sentence here.\n```\n| a | b | c |\n\n"
        "* A point with [a link](http://x) in it. "
    )
    plain = list(split_sentences(strip_markup(html)))
    assert plain == ["The council agreed on a plan for the river.", "See now.", "A point with a link in it."]


def test_abbreviations_and_decimals_do_not_end_a_sentence() -> None:
    text = (
        "Dr. Smith of the U.S. team saw 3.5 million cases vs. none before. "
        'It was e.g. a record. "Really?" He nodded.'
    )
    assert list(split_sentences(text)) == [
        "Dr. Smith of the U.S. team saw 3.5 million cases vs. none before.",
        "It was e.g. a record.",
        '"Really?"',
        "He nodded.",
    ]


@pytest.mark.parametrize(
    "unit",
    [
        "<",
        "<a",
        "<a ",
        ".",
        "!?",
        "`",
        "[a](",
        "![](",
        "<script>",
        "<!--",
        "a",
        "((",
        " ",
        "&amp;",
        "a. ",
        "A b. ",
    ],
)
def test_hostile_input_takes_no_time(unit: str) -> None:
    began = time.process_time()
    extract_summary(
        [Document(unit * 1000, unit * (64 * 1024 // len(unit)))] * 4, unit * 10, ExtractLimits(1, 100)
    )
    assert time.process_time() - began < 10


@given(st.text(max_size=400), st.text(max_size=50))
@settings(max_examples=200, deadline=None)
def test_no_text_is_a_crash(text: str, title: str) -> None:
    extract_summary([Document(title, text)], title, ExtractLimits(1, 50, (title,) if title.strip() else ()))


def test_more_than_enough_input_is_fast() -> None:
    documents = make_documents(40, 60)
    began = time.process_time()
    extract_summary(documents, "policy and research", ExtractLimits(200, 400))
    assert time.process_time() - began < 15


def test_options_of_the_provider() -> None:
    ask = ({"role": "user", "content": "Summarise"},)
    assert answer_extractive(ModelRequest(ask, options={"given": "A plan."})).text == "A plan."
    with pytest.raises(ModelError):
        answer_extractive(ModelRequest(ask, options={"min_words": 10, "max_words": 5}))
