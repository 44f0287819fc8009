"""Graders of the published benchmarks: what each accepts and refuses (docs/graders.md); no answer breaks one."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmpu.core import Grader, Sample, UserError, user
from mmpu.graders.choice import Choice
from mmpu.graders.exact import Exact
from mmpu.graders.final_answer import FinalAnswer
from mmpu.graders.math import Math, last_boxed
from mmpu.graders.number import Number
from mmpu.graders.tool_calls import ToolCalls
from mmpu.graders.vqa import Vqa


def sample(answer: str | None, **meta: object) -> Sample:
    return Sample("a", user("?"), answer=answer, meta=meta)


@pytest.fixture(scope="module")
def _math_verify() -> None:
    pytest.importorskip("math_verify", reason="the extra math is not installed: pip install 'mmpu[math]'")


# -----------------------------------------------------------------------------------------------------------------
# math


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{4}", "4"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"\boxed 5$.", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{}", ""),
        (r"\boxed{4", None),
        (r"\boxed", None),
        ("4", None),
        (r"\boxed{1} and \boxed{2", None),
    ],
)
def test_the_last_box(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


def test_without_math_verify_the_first_answer_says_what_to_install() -> None:
    """In a process that cannot find the module, as where mmpu is installed without extras; other graders do without."""
    script = (
        "import sys\n"
        "sys.modules['math_verify'] = None\n"
        "from mmpu.core import Sample, UserError, user\n"
        "from mmpu.graders.math import Math\n"
        "from mmpu.graders.number import Number\n"
        "question = Sample('a', user('?'), answer='4')\n"
        "assert Number().grade(question, 'So 4') == 1\n"
        "try:\n"
        "    Math().grade(question, r'\\boxed{4}')\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "grader math needs math-verify" in done.stdout
    assert "pip install 'mmpu[math]'" in done.stdout


@pytest.mark.usefixtures("_math_verify")
@pytest.mark.parametrize(
    ("answer", "boxed"),
    [
        (r"\frac34", r"\frac{3}{4}"),
        (r"\frac34", "0.75"),
        (r"\frac{1}{2}", "1/2"),
        (r"\dfrac{1}{2}", ".5"),
        ("73", "073"),
        ("1000", "1,000"),
        ("5", "x = 5"),
        ("5", r"5 \text{ feet}"),
        ("90", r"90^\circ"),
        ("50", r"50\%"),
        (r"\$32{,}348", "32348"),
        (r"\sqrt{3}", r"\sqrt3"),
        (r"\sqrt{3}", "3^{1/2}"),
        ("(1,2)", r"\left(1, 2\right)"),
        ("x+1", "1+x"),
        (r"\text{Tuesday}", "Tuesday"),
        (r"\text{(A)}", "A"),
        ("5!", "120"),
    ],
)
def test_math_accepts(answer: str, boxed: str) -> None:
    assert Math().grade(sample(answer), rf"Hence \boxed{{{boxed}}}.") == 1


@pytest.mark.usefixtures("_math_verify")
@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("-1", r"\boxed{1}"),
        (r"\frac34", r"\boxed{\frac43}"),
        ("204", "204"),
        ("204", "The answer is 204."),
        ("204", r"\boxed{204"),
        ("204", ""),
        ("204", r"\boxed{}"),
        ("204", r"\boxed{204} no, \boxed{205}"),
        ("1000", r"\boxed{1001}"),
        ("x+1", r"\boxed{x-1}"),
        ("(1,2)", r"\boxed{(2,1)}"),
        ("2", r"\boxed{\undefined{3}}"),
    ],
)
def test_math_refuses(answer: str, text: str) -> None:
    assert Math().grade(sample(answer), text) == 0


@pytest.mark.usefixtures("_math_verify")
@pytest.mark.parametrize(
    ("text", "grade"),
    [("The answer is 3/4.", 1), (r"so $x = \frac{3}{4}$.", 1), ("about 0.7", 0), (r"\boxed{1} 3/4", 0), ("", 0)],
)
def test_flexible_math_reads_texts_without_a_box(text: str, grade: float) -> None:
    assert Math(flexible=True).grade(sample(r"\frac34"), text) == grade


def test_math_abstains_without_an_answer_and_two_missing_answers_are_not_equal() -> None:
    assert Math().grade(sample(None), r"\boxed{}") is None
    assert Math().grade(sample(""), r"\boxed{}") is None


BOMBS = [
    r"\boxed{9^{9^{9^{9^9}}}}",
    r"\boxed{" + "{" * 450 + "}" * 450 + "}",
    r"\boxed{" + r"\frac{1}{" * 90 + "2" + "}" * 91,
    r"\boxed{100000!}",
    r"\boxed{\int_0^1 e^{e^{e^x}} dx}",
    r"\boxed{" * 150_000,
    r"\boxed{" + "1" * 1_000_000 + "}",
    "x" * 1_000_000,
    r"\boxed{" + "(" * 900 + "}",
    r"\boxed{\left(" * 50 + "}" * 50,
]


@pytest.mark.usefixtures("_math_verify")
def test_no_bomb_takes_the_grader_down() -> None:
    """Each costs at most its time limit, and the next answer is graded as ever."""
    grader = Math(timeout=0.5)
    assert Math(timeout=30.0).grade(sample("x+1"), r"\boxed{1+x}") == 1  # the worker is up
    for bomb in BOMBS:
        begin = time.monotonic()
        assert grader.grade(sample("7"), bomb) == 0
        assert grader.grade(sample("7"), "The answer is 7. " + bomb) == 0
        assert time.monotonic() - begin < 300, bomb[:40]  # of which two starts of a worker take most
        assert Math(timeout=30.0).grade(sample("x+1"), r"\boxed{1+x}") == 1


@pytest.mark.usefixtures("_math_verify")
def test_math_works_from_threads() -> None:
    found: list[float | None] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(Math(timeout=30).grade(sample(f"x+{n}"), rf"\boxed{{{n}+x}}")))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1.0] * 8


# -----------------------------------------------------------------------------------------------------------------
# number


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("It is 18.\n#### 18", 1, 1),
        ("#### 18.", 1, 1),
        ("#### 1,8", 1, 1),
        ("#### 18.0", 1, 1),
        ("#### 18\nor 19", 1, 1),
        ("####18", 0, 1),
        ("#### $18", 0, 1),
        ("So 18", 0, 1),
        ("#### 18\n#### 19", 1, 0),
        ("#### 1.8.0", 0, 0),
        ("#### .", 0, 0),
        ("", 0, 0),
    ],
)
def test_strict_and_flexible_numbers(text: str, strict: float, flexible: float) -> None:
    assert Number(strict=True).grade(sample("18"), text) == strict
    assert Number().grade(sample("18"), text) == flexible


def test_a_problem_without_a_solution_wants_a_refusal() -> None:
    grader = Number(refusal="None")
    assert grader.grade(sample("None"), "The number of eggs is not given.\n#### None") == 1
    assert grader.grade(sample("None"), "#### none.") == 1
    assert grader.grade(sample("None"), "#### 12") == 0
    assert grader.grade(sample("None"), "None") == 0
    assert grader.grade(sample("12"), "#### 12") == 1
    assert grader.grade(sample("12"), "#### None") == 0
    assert Number().grade(sample("None"), "#### None") is None


# -----------------------------------------------------------------------------------------------------------------
# multiple choice

BITES = ("toothpick", "food", "popsicle stick", "cigarette")


@pytest.mark.parametrize(
    "text",
    [
        "(3)",
        "3",
        "3.",
        "Option 3",
        "option (3)",
        "The answer is (3).",
        "The answer is (3) cigarette.",
        "cigarette",
        "Cigarette.",
        "He has a cigarette in his mouth.",
        "Answer: cigarette",
        "D",
        "(D)",
        "D. cigarette",
        "d) cigarette",
        "**(3)**",
        "It is not a toothpick but a cigarette.",
        "Is it (1)? The answer is: (3)",
        "I think (3), since there is smoke.",
    ],
)
def test_choice_accepts(text: str) -> None:
    assert Choice().grade(sample("cigarette", choices=BITES), text) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "(2)",
        "(7)",
        "C",
        "A cigarette or food.",
        "stick",
        "(3) food",
        "The answer is (1). Or (3)?",
        "not a cigarette",
        "I do not know",
        "A",
    ],
)
def test_choice_refuses(text: str) -> None:
    assert Choice().grade(sample("cigarette", choices=BITES), text) == 0


def test_a_bare_number_that_is_an_option_names_that_option() -> None:
    counts = sample("3", choices=["1", "2", "3", "4"])
    assert Choice().grade(counts, "3") == 1
    assert Choice().grade(counts, "(2)") == 1
    assert Choice().grade(counts, "(3)") == 0
    assert Choice(first=1).grade(counts, "(3)") == 1


def test_an_option_within_another_one() -> None:
    buses = sample("red bus", choices=["bus", "red bus", "car"])
    assert Choice().grade(buses, "It is a red bus.") == 1
    assert Choice().grade(buses, "It is a bus.") == 0


def test_choice_needs_its_options() -> None:
    with pytest.raises(UserError, match=r"'a': grader choice needs the options as a list in `meta\.choices`"):
        Choice().grade(sample("x"), "x")
    with pytest.raises(UserError, match=r"the answer 'x' is not among its `meta\.choices`"):
        Choice().grade(sample("x", choices=["y", "z"]), "x")


# -----------------------------------------------------------------------------------------------------------------
# direct answers, exact

PEOPLE = ["racing", "race", "race", "motocross", "riding", "racing", "racing", "two", "a bike", "bike"]


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("racing", 1),
        ("Racing.", 1),
        ("The answer is racing.", 1),
        ("race", 2 / 3),
        ("motocross", 1 / 3),
        ("bike", 2 / 3),
        ("the bike!", 2 / 3),
        ("2", 1 / 3),
        ("they are racing", 0),
        ("", 0),
    ],
)
def test_direct_answers_count_by_how_many_people_gave_them(text: str, grade: float) -> None:
    assert Vqa().grade(sample(None, answers=PEOPLE), text) == pytest.approx(grade)


def test_the_best_direct_answer_may_get_less_than_one() -> None:
    assert Vqa().ideal(sample(None, answers=["a dog", "cat", "dog"])) == ("dog", 2 / 3)
    assert Vqa().grade(sample(None, answers=[]), "x") is None
    with pytest.raises(UserError, match=r"needs people's answers as a list in `meta\.answers`"):
        Vqa().grade(sample("x"), "x")


@pytest.mark.parametrize(
    ("text", "case", "grade"),
    [(" Paris\n", True, 1), ("paris", False, 1), ("paris", True, 0), ("Paris.", False, 0), ("", False, 0)],
)
def test_exact(text: str, case: bool, grade: float) -> None:
    assert Exact(case=case).grade(sample("Paris"), text) == grade
    assert Exact().grade(sample(None), text) is None


# -----------------------------------------------------------------------------------------------------------------
# tool calls


def calls(*pairs: tuple[str, object]) -> str:
    return json.dumps([{"Action": name, "Action_Input": json.dumps(arguments)} for name, arguments in pairs])


def said(*pairs: tuple[str, str]) -> str:
    return "\n".join(f"Thought: so.\nAction: {name}\nAction Input: {text}" for name, text in pairs)


ONE = calls(("getFacts", {"limit": 3, "deep": {"x": [1]}}))
TWO = calls(("get.a-b", {"n": 1}), ("put", {"n": 2}))


@pytest.mark.parametrize(
    ("answer", "text", "strict", "compat"),
    [
        (calls(("a", {"n": 1})), said(("a", '{"n": 1}')), 1, 1),
        (calls(("a", {"n": 1})), said(("a", '{ "n":1.0 }')), 1, 1),
        (calls(("a", {"n": 1})), said(("a", '{"n": true}')), 0, 1),
        (calls(("a", {"n": 1})), said(("a", '```json\n{"n": 1}\n```')), 1, 0),
        (calls(("a", {"n": 1})), said(("a", '{"n": 1}')) + "\nObservation: fine", 1, 1),
        (calls(("a", {"n": 1})), said(("a", '{"n": 1}}')), 0, 1),
        (calls(("a", {"n": 1})), said(("b", '{"n": 1}')), 0, 0),
        (calls(("a", {"n": 1})), "a(n=1)", 0, 0),
        (calls(("a", {"n": 1})), "Action: a", 0, 0),
        (calls(("a", {"n": 1})), "", 0, 0),
        (calls(("a", {})), said(("a", "{}")), 1, 1),
        (calls(("a", {})), said(("a", "{broken")), 0, 1),
        (ONE, said(("getFacts", '{"deep": {"x": [1]}, "limit": 3}')), 1, 0),
        (TWO, said(("get.a-b", '{"n": 1}'), ("put", '{"n": 2}')), 1, 0),
        (calls(("a", {"n": 1}), ("b", {"n": 2})), said(("b", '{"n": 1}'), ("a", '{"n": 2}')), 0, 1),
        (calls(("a", {"n": 1}), ("b", {"n": 2})), said(("a", '{"n": 9}'), ("b", '{"n": 2}')), 0, 1),
        (calls(("a", {"n": 1}), ("b", {"n": 2})), said(("a", '{"n": 1}')), 0, 0),
    ],
)
def test_tool_calls_strict_and_as_published(answer: str, text: str, strict: float, compat: float) -> None:
    assert ToolCalls().grade(sample(answer), text) == strict
    assert ToolCalls(compat=True).grade(sample(answer), text) == compat


@pytest.mark.parametrize("answer", [None, "", "[", '[{"Action": "a"}]', '[{"Action": "a", "Action_Input": "{"}]'])
def test_tool_calls_abstain_where_the_gold_calls_are_no_json(answer: str | None) -> None:
    for grader in (ToolCalls(), ToolCalls(compat=True)):
        assert grader.grade(sample(answer), "Action: a\nAction Input: {}") is None
        assert grader.ideal(sample(answer)) is None


def test_deeply_nested_arguments_are_malformed_not_fatal() -> None:
    deep = "[" * 100_000
    assert ToolCalls().grade(sample(calls(("a", {}))), said(("a", deep))) == 0
    assert ToolCalls(compat=True).grade(sample(calls(("a", {}))), said(("a", '{"x": ' + deep))) == 1


# -----------------------------------------------------------------------------------------------------------------
# all of them

SAMPLES: list[tuple[Callable[..., Grader], Sample]] = [
    (Number, sample("18")),
    (lambda: Number(strict=True), sample("18")),
    (lambda: Number(refusal="None"), sample("None")),
    (Exact, sample("Paris")),
    (Choice, sample("food", choices=BITES)),
    (Vqa, sample("race", answers=PEOPLE)),
    (ToolCalls, sample(TWO)),
    (lambda: ToolCalls(compat=True), sample(TWO)),
]
PIECES = [
    *("answer is", "Answer:", "(2)", "(B)", "Option", "food", "not", "3.", "####", "####  ", "$", ",", "-", "."),
    *("Action:", "Action Input:", '{"n": 1}', "{", "}", "[", '"', "```json", "\n", "Observation:", "None", "1e999"),
    *(r"\boxed{", r"\frac", r"\sqrt", "^", "_", "{}", "\\", "²", "½", "٣", "é", "\u2028", "\x00", "𝟙"),
]
LATEX = st.lists(
    st.sampled_from(
        [
            *(r"\frac", r"\sqrt", r"\left(", r"\right)", r"\pi", r"\infty", r"\cup", r"\le", r"\text", r"\%"),
            *("^", "_", "{", "}", "1", "2", "x", "y", "+", "-", "/", ",", "=", "!", ";"),
        ]
    ),
    max_size=7,
).map(" ".join)
TEXTS = st.text() | st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join)
ANSWERS = TEXTS | (LATEX | TEXTS).map(lambda text: rf"So \boxed{{{text}}}.")
FUZZED = int(os.environ.get("FUZZED", "300"))
"""Answers that each grader is given; the long run has 10,000."""


def ifeval() -> Grader:
    pytest.importorskip("langdetect", reason="the extra lm-eval is not installed: pip install 'mmpu[lm-eval]'")
    from mmpu.graders.ifeval import IfEval

    return IfEval("instruction", loose=True)


INSTRUCTIONS = {
    "punctuation:no_comma": {},
    "change_case:english_lowercase": {},
    "language:response_language": {"language": "en"},
    "detectable_format:json_format": {},
    "detectable_format:number_bullet_lists": {"num_bullets": 2},
    "combination:two_responses": {},
    "keywords:frequency": {"keyword": "food", "frequency": 2, "relation": "at least"},
}
FUZZ = [
    *SAMPLES,
    (FinalAnswer, sample("12", letter="B")),
    (lambda: Math(timeout=0.5), sample("18")),
    (lambda: Math(timeout=0.5, flexible=True), sample(r"\frac{1}{2}")),
    (ifeval, sample(None, instructions=list(INSTRUCTIONS), arguments=list(INSTRUCTIONS.values()))),
]


@pytest.mark.filterwarnings("ignore")  # lm-eval's and its libraries'
@pytest.mark.usefixtures("_math_verify")
@pytest.mark.parametrize(("make", "item"), FUZZ)
def test_no_answer_breaks_a_grader_or_holds_it_up(make: Callable[..., Grader], item: Sample) -> None:
    grader = make()
    longest = 0.0

    @settings(
        max_examples=FUZZED,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
        database=None,
    )
    @given(ANSWERS)
    def survives(text: str) -> None:
        nonlocal longest
        begin = time.process_time()
        grade, key = grader.grade(item, text), grader.key(item, text)
        longest = max(longest, time.process_time() - begin)
        assert grade is not None
        assert 0 <= grade <= 1
        assert isinstance(key, str | None)

    survives()
    assert longest < 10


@pytest.mark.parametrize(("make", "item"), [*SAMPLES, (Math, sample(r"\frac{1}{2}"))])
def test_a_megabyte_costs_no_more_than_a_moment(make: Callable[..., Grader], item: Sample) -> None:
    for piece in (
        "x",
        "9",
        "(1) ",
        "answer is ",
        "#### 1 ",
        "Action: a\nAction Input: {",
        "{",
        "\\boxed{",
        " ",
        "not a ",
        "<tool_call>",
        "<tool_call> {",
        "<tool_call>{}",
        "<function=",
        "<function=a><parameter=b>",
        '[TOOL_CALLS]a{"',
        '{"name":"a","arguments":{}} ; ',
        "; ",
    ):
        text = piece * (1_000_000 // len(piece))
        begin = time.process_time()
        assert make().grade(item, text) is not None
        assert time.process_time() - begin < 10, (type(make()).__name__, piece)


@pytest.mark.parametrize(("make", "item"), [*SAMPLES, (Math, sample(r"\frac{1}{2}"))])
def test_the_ideal_answer_gets_the_grade_it_says(make: Callable[..., Grader], item: Sample) -> None:
    ideal: Any = make().ideal(item)
    assert make().grade(item, ideal[0]) == ideal[1]
    assert ideal[1] == 1 or make().__dict__.get("compat")


# -----------------------------------------------------------------------------------------------------------------
# instructions


@pytest.mark.filterwarnings("ignore")
def test_ifeval_through_lm_eval() -> None:
    pytest.importorskip("langdetect", reason="the extra lm-eval is not installed: pip install 'mmpu[lm-eval]'")
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed: pip install 'mmpu[lm-eval]'")
    from mmpu.graders.ifeval import IfEval

    item = sample(None, instructions=["punctuation:no_comma", "change_case:english_lowercase"], arguments=[{}, {}])
    one, both, none = "hello, my dear friend how are you", "hello there my dear friend how are you", "Hello, You"
    assert [IfEval().grade(item, t) for t in (one, both, none)] == [0, 1, 0]
    assert [IfEval("instruction").grade(item, t) for t in (one, both, none)] == [0.5, 1, 0]
    assert IfEval(loose=True).grade(item, "Sure, here:\n" + both) == 1
    with pytest.raises(UserError, match="lm-eval knows no instruction 'no:such'"):
        IfEval().grade(sample(None, instructions=["no:such"], arguments=[{}]), "x")
    with pytest.raises(UserError, match="needs lists of one length"):
        IfEval().grade(sample(None, instructions=["punctuation:no_comma"]), "x")


@pytest.fixture(name="ifeval_grader")
def _ifeval_grader() -> Callable[..., Any]:
    pytest.importorskip("langdetect", reason="the extra lm-eval is not installed: pip install 'mmpu[lm-eval]'")
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed: pip install 'mmpu[lm-eval]'")
    from mmpu.graders.ifeval import IfEval

    return IfEval


def instructed(instruction: str, **arguments: object) -> Sample:
    return sample(None, instructions=[instruction], arguments=[arguments])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("letter", "relation", "text", "grade"),
    [
        ("#", "at least", "see #one #two #three #four", 1),
        ("#", "at least", "see #one #two #three", 0),
        ("#", "less than", "see #one #two #three", 1),
        ("!", "at least", "A! B! C! D!", 1),
        ("é", "at least", "été", 0),
        ("É", "at least", "été éé", 1),
        ("o", "at least", "o o o o", 1),
        ("#", "less than", "", 0),
    ],
)
def test_ifeval_counts_the_character_that_was_asked_for(
    ifeval_grader: Callable[..., Any], letter: str, relation: str, text: str, grade: float
) -> None:
    item = instructed("keywords:letter_frequency", letter=letter, let_frequency=4, let_relation=relation)
    assert {ifeval_grader().grade(item, text) for _ in range(8)} == {grade}
    assert ifeval_grader(loose=True).grade(item, "Sure!\n" + text) >= grade


@pytest.mark.filterwarnings("ignore")
def test_ifeval_tosses_no_coin(ifeval_grader: Callable[..., Any]) -> None:
    state = random.getstate()
    for text in ("Hello world", "no", "ok ok", "a la carte"):
        assert (
            len(
                {
                    ifeval_grader().grade(instructed("language:response_language", language="en"), text)
                    for _ in range(25)
                }
            )
            == 1
        )
    assert random.getstate() == state, "the caller's random numbers are left alone"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("instruction", "arguments", "message"),
    [
        ("length_constraints:nth_paragraph_first_word", {"keyword": "x", "num_paragraphs": 3}, "no argument 'keyword'"),
        ("keywords:existence", {}, "needs the argument 'keywords'"),
        ("keywords:existence", {"keyword": "x"}, "no argument 'keyword'"),
        (
            "keywords:frequency",
            {"keyword": "x", "frequency": 0, "relation": "at least"},
            "needs the argument 'frequency'",
        ),
        ("keywords:frequency", {"keyword": "x", "frequency": 2, "relation": "about"}, "must be in"),
        (
            "keywords:frequency",
            {"keyword": "x", "frequency": -1, "relation": "at least"},
            "'frequency' is out of range",
        ),
        ("language:response_language", {"language": "xx"}, "'xx'"),
        ("punctuation:no_comma", {"n": 1}, "no argument 'n'; it takes none"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"first_word": "x", "num_paragraphs": 3, "nth_paragraph": 4},
            "'nth_paragraph' is out of range",
        ),
    ],
)
def test_ifeval_names_the_row_of_a_wrong_argument(
    ifeval_grader: Callable[..., Any], instruction: str, arguments: dict[str, object], message: str
) -> None:
    item = instructed(instruction, **arguments)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        ifeval_grader().grade(item, "x")
    assert "'a'" in str(error.value)
    assert [remark.kind for remark in ifeval_grader().remarks(item)] == ["problem"]
