"""Graders: tables of what counts as right, and no text that breaks them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmpu.core import Sample, user
from mmpu.graders.final_answer import FinalAnswer
from mmpu.graders.number import Number, last_number


def sample(answer: str | None, letter: str = "") -> Sample:
    return Sample("a", user("?"), answer=answer, meta={"letter": letter})


@pytest.mark.parametrize(
    ("answer", "letter", "text"),
    [
        ("12", "", "The answer is 12."),
        ("12", "", "12"),
        ("12", "", "**12**"),
        ("12", "", "5 + 7 = 12. So the answer is 12."),
        ("12", "", "The answer is 11. No, the answer is 12."),
        ("12", "", "The answer is: 12"),
        ("12", "", "Answer: 12\n"),
        ("-3", "", "The answer is -3."),
        ("2.5", "", "The answer is 2.5."),
        ("blue", "", "The shape is blue."),
        ("blue", "", "There are two. The shape is Blue!"),
        ("triangle", "", "The answer is a triangle."),
        ("dark blue", "", "The answer is dark  blue."),
        ("yes", "", "Yes."),
        ("neither", "", "The answer is neither."),
        ("Éva", "", "The answer is éva."),
        ("12", "", "The answer is (B) 12."),
        ("12", "B", "The answer is (B) 12."),
        ("12", "B", "The answer is B) 12."),
        ("12", "B", "The answer is (B)."),
        ("12", "B", "(B)"),
        ("12", "B", "B"),
        ("12", "B", "b."),
        ("12", "B", "The answer is 12."),
        ("12", "B", "I count. The answer is (A) 11. Wait: the answer is (b)"),
    ],
)
def test_final_answer_accepts(answer: str, letter: str, text: str) -> None:
    assert FinalAnswer().grade(sample(answer, letter), text) == 1


@pytest.mark.parametrize(
    ("answer", "letter", "text"),
    [
        ("12", "", ""),
        ("12", "", "The answer is"),
        ("12", "", "The answer is 112."),
        ("12", "", "The answer is -12."),
        ("12", "", "The answer is 12.5."),
        ("12", "", "The answer is 12. Or is it 13?"),
        ("12", "", "The answer is 12 apples."),
        ("12", "", "The answer is 12. The answer is 13."),
        ("12", "", "12. No idea."),
        ("12", "", "The answer is not 12."),
        ("12", "", "The answer isn't 12."),
        ("12", "", "The answer is 11 or 12."),
        ("triangle", "", "It is not a triangle."),
        ("blue", "", "The shape is bluegreen."),
        ("blue", "", "The blue shape."),
        ("dark blue", "", "The answer is blue."),
        ("12", "B", "The answer is (A) 12."),
        ("12", "B", "The answer is (B) 11."),
        ("12", "B", "The answer is (A)."),
        ("12", "B", "A"),
        ("12", "", "B"),
    ],
)
def test_final_answer_refuses(answer: str, letter: str, text: str) -> None:
    assert FinalAnswer().grade(sample(answer, letter), text) == 0


@pytest.mark.parametrize("answer", [None, "", "…", "$"])
def test_final_answer_abstains_where_nothing_can_be_compared(answer: str | None) -> None:
    assert FinalAnswer().grade(sample(answer), "The answer is …") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", 5),
        ("So 3 + 4 = 7.", 7),
        ("It costs $1,234.50.", 1234.5),
        ("-7 degrees", -7),
        ("-$7", -7),
        ("$-7", -7),
        (".5", 0.5),
        ("2,000,000 people", 2_000_000),
        ("3 - 5", 5),
        ("#### 42\nChecked on 3 examples.", 42),
        ("####-42", -42),
        ("#### 1\n#### 2", 2),
        (r"so \boxed{ 12 } in 3 steps", 12),
        (r"\boxed{$1,000}", 1000),
        (r"\boxed{x} = 3", 3),
        ("50%", 50),
        ("3/4", 0.75),
        ("12/25/2020", 2020),
        ("٣", 3),
        ("", None),
        ("none", None),
        ("####", None),
    ],
)
def test_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number


@pytest.mark.parametrize(
    ("answer", "text", "grade"),
    [
        ("18", "9 * 2 = 18", 1),
        ("She makes 18.\n#### 18", "18.0", 1),
        ("1,000", "It is 1000 coins.", 1),
        ("18", "19", 0),
        ("18", "-18", 0),
        ("18", "no number", 0),
        ("18", "1" * 5000, 0),
        ("0.333", "0.3333", 0),
        (None, "18", None),
        ("eighteen", "18", None),
    ],
)
def test_number(answer: str | None, text: str, grade: float | None) -> None:
    assert Number().grade(sample(answer), text) == grade


def test_number_s_tolerance_is_a_setting() -> None:
    assert Number(tolerance=0.01).grade(sample("0.333"), "0.3333") == 1


PIECES = [
    "answer",
    "is:",
    "(B)",
    "12.",
    "-",
    "$",
    ",",
    "####",
    r"\boxed{",
    "}",
    "²",
    "½",
    "٣",
    "é",
    "not",
    "a",
    "1e999",
    "\n",
]
TEXTS = st.text() | st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(TEXTS, TEXTS, st.sampled_from(["", "A", "b", "("]))
@example("9" * 5000, "9" * 5000, "")
def test_no_text_breaks_a_grader(answer: str, text: str, letter: str) -> None:
    for grader in (FinalAnswer(), Number()):
        assert grader.grade(sample(answer, letter), text) in (0, 1, None)
    number = last_number(text)
    assert number is None or not math.isnan(number)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(-(10**9), 10**9), TEXTS.filter(lambda t: "answer" not in t.casefold()))
def test_a_clear_answer_counts_whatever_stands_before_it(number: int, before: str) -> None:
    text = f"{before}\nThe answer is {number}."
    assert FinalAnswer().grade(sample(str(number)), text) == 1
    assert FinalAnswer().grade(sample(str(number + 1)), text) == 0
    assert Number().grade(sample(str(number)), f"{before}\n#### {number}") == 1


def test_number_agrees_with_gsm8k_s_own_labels(shared: Path) -> None:
    """Solutions of four models to every test question, labelled by the data set's authors."""
    file = shared / "data/datasets/gsm8k/example_model_solutions.jsonl"
    if not file.exists():
        pytest.skip("GSM8K's example_model_solutions.jsonl is not there")
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    agreed = [
        (Number().grade(sample(row["ground_truth"]), solution["solution"]) == 1.0) == solution["is_correct"]
        for row in rows
        for solution in row.values()
        if isinstance(solution, dict)
    ]
    assert len(agreed) == 4 * len(rows)
    assert sum(agreed) / len(agreed) >= 0.995
