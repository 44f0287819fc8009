"""Answers as people and models write them: letters, signs, numbers, formulas, lists; what is equal and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpu.core import Sample, user
from mmpu.graders.choice import Choice
from mmpu.graders.exact import Exact
from mmpu.graders.final_answer import FinalAnswer
from mmpu.graders.math import Math
from mmpu.graders.number import Number, last_number
from mmpu.graders.vqa import Vqa
from mmpu.task import load_task
from mmpu.task.check import check

CITIES = ("Paris", "London", "Rome", "Madrid")


def sample(answer: str | None, **meta: object) -> Sample:
    return Sample("a", user("?"), answer=answer, meta=meta)


ROME = sample("Rome", choices=CITIES)

# -----------------------------------------------------------------------------------------------------------------
# letters

DECORATED = r"""C;c;(C);[C];C.;C);**C**;**C.** Rome;*C*;`C`;"C";$C$;\(C\);\boxed{C};\boxed{\text{C}};\boxed{(C)}
\textbf{C};\text{(C) Rome};\mathbf{C};$\boxed{C}$;\[ \text{Answer: C} \];Answer: \( \text{C} \);C!;> C;- C;<p>C</p>
Ｃ;（C）;【C】;「C」;Ⓒ;𝐂;C: Rome;C - Rome;C – Rome;(C) Rome;C) Rome;C.Rome;C、Rome;Option C;option (C);Choice C
Option C: Rome;Letter C;<answer>C</answer>;<answer>(C) Rome</answer>;{"answer": "C"};{'answer': 'C'};{"choice": "C"}
{"reason": "A is in France", "answer": "C"};{"answer": ["C"]};{"final_answer": "Rome"};Answer: C (Rome);2;(2)"""
STATED = """The answer is C;The answer is C.;The answer is (C).;The answer is: C;The correct option is C
The correct choice is (C) Rome.;Correct answer: C;Answer - C;ANSWER: C;**Answer:** C;**Answer: C**;**Answer**: C
The final answer is $\\boxed{C}$. I hope it is correct.;The answer is C because it lies in Italy.;C is correct.
C, because it lies in Italy;C because it lies in Italy;(C) is correct, (A) is wrong.;The correct answer is C, not A.
It is C.;I choose C.;I think it's C.;Thus C;So, C.;The answer should be option C.;The answer to this question is C.
The answer is <b>C</b>;Answer: The answer is C;The best answer is **C**.;A: no. B: no. C: yes. So the answer is C
The Colosseum is in Rome, not in Paris."""
LANGUAGES = """答案：C;答案是 C。;正确答案是C;正确答案：（C）;故选C;选C;所以选C。;Antwort: C;Die richtige Antwort ist C
La respuesta correcta es C.;Respuesta: C;La bonne réponse est C.;A resposta correta é C;La risposta corretta è C
Ответ: C;Правильный ответ: C;Ответ — C;정답: C;정답은 C
答えはC;正解はC;الإجابة: C;الإجابة الصحيحة هي C;उत्तर: C;सही उत्तर C है
Doğru cevap: C;Đáp án đúng là C;Jawaban: C;Odpowiedź: C;Antwoord: C;Svar: C"""
LINES = (
    "C\nExplanation: it lies in Italy.",
    "C\n\nA is in France, B in England.",
    "### Answer\nC",
    "**Final Answer**\n\nC",
    "Let me see.\n\nC",
    "It lies in Italy.\n\nC. Rome",
    "Answer: C\n\nOption A is in France.",
    '```json\n{"answer": "C"}\n```',
    "A) Paris is in France. B) London is in England.\n\nAnswer: C",
    "Answer: C\u200b",
    "The correct answer is (C). The road from Paris to London is another one.",
)
ONE_LETTER = [
    form for block in (DECORATED, STATED, LANGUAGES) for line in block.split("\n") for form in line.split(";")
]


@pytest.mark.parametrize("text", [*ONE_LETTER, *LINES])
def test_a_letter_in_any_form_names_its_option(text: str) -> None:
    assert Choice().grade(ROME, text) == 1


NOT_ONE = """A;(A);The answer is A;C or D;C and D;(C) or (D);C, D;CD;Answer: CD;Answer: C, D;Answer: C/D;Both C and D
(C) Rome (D) Madrid;C. Rome D. Madrid;(C) Rome (A) Paris (B) London (D) Madrid;Paris, London, Rome, Madrid;not C
The answer is not C;Not (C).;C is wrong;C is incorrect.;(C) is not correct;C is not the answer;E;Answer: E;(C) Paris
C. Paris;Answer: C. Paris;The answer is C: London;I do not know;Answer: ;Answer: none of the above;vitamin C
Rome or Paris;Either C or D;The answer is C. Or A?;Answer: (C)(D);Answer: ABCD;\\boxed{C, D};\\boxed{};{"answer": "A"}
{"answer": ""};<answer>B</answer>;答案：A;It isn't Rome.;Option E"""
ECHOES = (
    "C) Rome\nD) Madrid",
    "C. Rome\nD. Madrid\nA. Paris\nB. London",
    "A\nB\nC\nD",
    "C\nD",
    "(C). Paris",
    "C\nParis",
    "(C) Rome\n(D) Madrid\n\nAnswer: CD",
)


@pytest.mark.parametrize("text", [*(form for line in NOT_ONE.split("\n") for form in line.split(";")), *ECHOES])
def test_several_options_another_or_none_are_no_answer(text: str) -> None:
    assert Choice().grade(ROME, text) == 0


SIGNS = [
    (["x < 3", "x > 3"], "x > 3", ["B", "x > 3", "Answer: x>3", "$x > 3$"], ["x < 3", "A", "x = 3"]),
    (["Na+", "Na-", "Na"], "Na-", ["B", "Na-", "The answer is Na-.", "Na−"], ["Na+", "Na", "A"]),
    (["5", "−5"], "−5", ["-5", "−5", "–5", "(B)", "Answer: -5"], ["5", "(A)"]),
    (["C", "C++", "C#"], "C#", ["C#", "(C)", "Answer: C#", "It is C#."], ["C++", "(A)", "It is C++."]),
    (["का", "की"], "की", ["की", "B"], ["का", "A", "क"]),
    (["café", "cafe"], "café", ["cafe\u0301", "CAFÉ", "A"], ["cafe", "B"]),
    (["(0,1)", "[0,1]", "(0,1]"], "[0,1]", ["[0,1]", "B", "(B)"], ["(0,1)", "(0,1]", "A"]),
    (["50%", "5%"], "50%", ["50%", "50 %", "50", "A"], ["5%", "5", "B"]),
    (["Ca", "CA"], "CA", ["CA", "B"], ["Ca", "A"]),
    (["+2", "-2"], "+2", ["+2", "A", "2"], ["-2", "−2"]),
    (["x²", "x³"], "x²", ["x²", "A"], ["x³"]),
    (["v1 > v2", "v1 = v2"], "v1 = v2", ["B", "v1=v2"], ["v1 > v2", "A"]),
    (["$5$", "$50$"], "$5$", ["5", "A", r"\(5\)"], ["50"]),
    (["I", "II", "III", "IV"], "III", ["III", "C", "The answer is III"], ["II", "I", "I am sorry, I cannot say."]),
    (["H2O", "H2O2"], "H2O", ["H2O", "A", "It is H2O."], ["H2O2", "It is H2O2."]),
]


@pytest.mark.parametrize(("choices", "answer", "right", "wrong"), SIGNS)
def test_options_that_differ_are_different(choices: list[str], answer: str, right: list[str], wrong: list[str]) -> None:
    item = sample(answer, choices=choices)
    assert [Choice().grade(item, text) for text in right] == [1] * len(right)
    assert [Choice().grade(item, text) for text in wrong] == [0] * len(wrong)
    assert not Choice().remarks(item) or choices[0] in ("C", "I")


def test_letters_that_are_options_are_read_as_labels_unless_the_task_says_otherwise() -> None:
    item = sample("A", choices=["D", "A", "C", "B"])
    for text in ("Answer: B", "B", "(B)", "B. A", "(B) A", r"\boxed{B}", "b"):
        assert Choice().grade(item, text) == 1
        assert Choice(letters="texts").grade(item, "A") == 1
    assert [Choice().grade(item, text) for text in ("A", "(A)", "Answer: A")] == [0, 0, 0]
    assert Choice(letters="texts").grade(item, "(B)") == 1, "brackets always hold a label"
    assert Choice().ideal(item) == ("(B)", 1.0)
    assert "a bare letter is read as the label" in Choice().remarks(item)[0].text
    segments = sample("AC", choices=["AC", "BC", "AB"])
    assert [Choice().grade(segments, text) for text in ("AC", "Answer: AC", "A", "BC", "AB")] == [1, 1, 1, 0, 0]


def test_options_that_cannot_be_told_apart_are_named() -> None:
    remarks = Choice().remarks(sample("5", choices=["5", "6", " 5 "]))
    assert [(r.kind, r.text) for r in remarks] == [("problem", "options A and C cannot be told apart: '5'")]
    assert [r.kind for r in Choice().remarks(sample("6", choices=["5", "6", "5"]))] == ["note"]


# -----------------------------------------------------------------------------------------------------------------
# words and signs


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        ("x < 3", ["x < 3", "The answer is x<3."], ["x > 3", "x 3"]),
        ("Na+", ["The answer is Na+.", "Na+"], ["Na-", "Na"]),
        ("-5", ["−5", "The answer is –5.", r"\boxed{-5}", "Answer: −5"], ["5", "The answer is 5."]),
        ("5", ["5", "+5", "It is 5."], ["−5", "-5"]),
        ("C#", ["C#", "The language is C#."], ["C", "C++"]),
        ("की", ["की", "उत्तर: की"], ["का", "क"]),
        ("café", ["cafe\u0301", "CAFÉ"], ["cafe"]),
        ("blue", ['{"answer": "blue"}', "<answer>Blue</answer>", "**blue**", r"\text{blue}", "答案：blue"], ["bluish"]),
        ("1000", ["1,000", "The answer is 1,000."], ["1", "100"]),
        ("12", ["12%", "**12**", "$12$"], ["12.5", "-12"]),
        ("12%", ["12 %", r"12\%", "12"], ["21%"]),
    ],
)
def test_signs_and_vowel_marks_are_content(answer: str, right: list[str], wrong: list[str]) -> None:
    assert [FinalAnswer().grade(sample(answer), text) for text in right] == [1] * len(right)
    assert [FinalAnswer().grade(sample(answer), text) for text in wrong] == [0] * len(wrong)


@pytest.mark.parametrize(
    "text", ["**B**", r"\text{B}", r"\boxed{B}", "$B$", "Option B", "答案：B", '{"answer": "B"}', "B, since it is so"]
)
def test_final_answer_reads_the_letter_in_any_form(text: str) -> None:
    assert FinalAnswer().grade(sample("12", letter="B"), text) == 1
    assert FinalAnswer().grade(sample("12", letter="C"), text) == 0


@pytest.mark.parametrize(
    ("given", "same", "other"),
    [
        ("-5", ["−5", "–5", "The answer is −5."], ["5"]),
        ("x < 3", ["X < 3"], ["x > 3", "x 3"]),
        ("C#", ["c#"], ["c", "c++"]),
        ("का", ["का"], ["की", "क"]),
        ("café", ["cafe\u0301"], ["cafe"]),
        ("1000", ["1,000", "**1000**", r"\boxed{1000}"], ["1", "000"]),
        ("dog", ["a dog.", '"dog"', "<answer>dog</answer>", '{"answer": "Dog"}'], ["dogs"]),
    ],
)
def test_direct_answers_keep_signs(given: str, same: list[str], other: list[str]) -> None:
    item = sample(None, answers=[given] * 3)
    assert [Vqa().grade(item, text) for text in same] == [1] * len(same)
    assert [Vqa().grade(item, text) for text in other] == [0] * len(other)


def test_exact_knows_one_letter_in_two_writings() -> None:
    assert Exact(case=True).grade(sample("café"), "cafe\u0301") == 1
    assert Exact().grade(sample("की"), "का") == 0
    assert Exact().grade(sample("x < 3"), "x > 3") == 0


# -----------------------------------------------------------------------------------------------------------------
# numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2.0107e-06", 2.0107e-06),
        ("1E5", 100000),
        (r"1.6\times 10^{-19}", 1.6e-19),
        ("1.6×10⁻¹⁹", 1.6e-19),
        ("5 x 10^3", 5000),
        ("1 1/2 cups", 1.5),
        ("½ cup", 0.5),
        ("2½", 2.5),
        (r"-\frac{1}{2}", -0.5),
        ("5分之3", 0.6),
        (r"1{,}234", 1234),
        (r"1\,234", 1234),
        ("1\u00a0234", 1234),
        ("1'000'000", 1000000),
        ("1.234.567", 1234567),
        ("1.234,5 €", 1234.5),
        ("0,5", 0.5),
        ("12,34,567", 1234567),
        ("#### 12 345", 12345),
        ("The answer is −5.", -5),
        ("–5 degrees", -5),
        ("10–12", 12),
        ("−$5", -5),
        ("#### USD 18", 18),
        ("#### **18** eggs in 3 days", 18),
        (r"\boxed{x=18} after 5 days", 18),
        (r"\boxed{18\text{ eggs}} in 3 days", 18),
        (r"\boxed{\$460} for 5 days", 460),
        ("#### 3 + 4 = 7 in all", 7),
        (r"\boxed{2^{10}} in 3 steps", 1024),
        ("#### 5 million in 2 years", 5),
        (r"\boxed{18}. So \boxed{} it is, after 3 steps", 18),
        ('{"answer": 18, "steps": 3}', 18),
        ("<answer>18</answer> after 3 steps", 18),
        ("1e999", None),
        ("7/0", None),
    ],
)
def test_numbers_in_every_writing(text: str, number: float | None) -> None:
    found = last_number(text)
    assert found is None if number is None else float(found or 0) == number


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        (
            "2.0107e-06",
            ["#### 0.0000020107", "2.0107e-6", r"\boxed{2.0107\times10^{-6}}"],
            ["-6", "#### 0", "3e-6", "2.02e-6"],
        ),
        ("-2.4967e-05", ["#### -0.000024967"], ["#### -5", "#### 0.000024967"]),
        ("2/6", ["#### 0.33333333", "1/3", r"\boxed{\frac{1}{3}}"], ["5/6", "2", "6", "0.34"]),
        ("41/100", ["#### 0.41", "41%"], ["99/100", "100"]),
        ("12%", ["12%", "0.12", "12", r"\boxed{12\%}"], ["1.2", "0.12%"]),
        ("0.5", ["50%", "1/2"], ["5%", "50"]),
        ("12345678901234567", ["12,345,678,901,234,567"], ["12345678901234568"]),
        ("1000000", ["1,000,000", "1e6", "#### 10^6"], ["1000001", "1"]),
    ],
)
def test_the_gold_number_is_read_as_it_is_written(answer: str, right: list[str], wrong: list[str]) -> None:
    assert [Number().grade(sample(answer), text) for text in right] == [1] * len(right)
    assert [Number().grade(sample(answer), text) for text in wrong] == [0] * len(wrong)
    ideal = Number().ideal(sample(answer))
    assert ideal is not None
    assert Number().grade(sample(answer), ideal[0]) == Number(strict=True).grade(sample(answer), ideal[0]) == 1


@pytest.mark.parametrize("answer", ["2:30", "5 or 6", "3, 4", "7/0", "1e400", "eighteen", "x", "12/25/2020", ""])
def test_a_gold_answer_that_is_not_one_number_is_a_problem(answer: str) -> None:
    assert Number().grade(sample(answer), "5") is None
    assert [remark.kind for remark in Number().remarks(sample(answer))] == ["problem"]


def test_the_relative_tolerance_stands_beside_the_absolute_one() -> None:
    assert [Number(relative=0.01).grade(sample("200"), text) for text in ("201", "203")] == [1, 0]
    assert [Number(tolerance=0.5, relative=0.001).grade(sample("200"), text) for text in ("200.4", "200.6")] == [1, 0]
    assert Number(tolerance=0.5).grade(sample("0.1"), "0.5") == 1, "a tolerance that is set is taken at its word"


def test_a_gold_answer_that_cannot_be_read_fails_the_task_check(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "1", "a": "2/6"}\n{"id": "2", "a": "2:30"}\n', encoding="utf-8")
    task = tmp_path / "task.yaml"
    task.write_text(
        'source: rows.jsonl\nid: "{{ id }}"\nprompt: [{user: "?"}]\n'
        'answer: "{{ a }}"\ngrader: number\nsplits: {test: {}}\n',
        encoding="utf-8",
    )
    assert check(load_task(str(task))).problems == [
        "split test: 2: the gold answer '2:30' cannot be read as one number"
    ]


# -----------------------------------------------------------------------------------------------------------------
# mathematics

EQUAL = [
    ("3,5,7", [r"7,5,3", r"7, 5, 3", r"3, 5 \text{ and } 7", r"\{3,5,7\}", r"5;3;7"]),
    ("-1,0,1", ["0,-1,1", "1, 0, -1", r"0,\pm1"]),
    ("27,93", ["93,27", "27, 93"]),
    ("1000", ["1,000", r"1\,000", r"1{,}000", "1 000", r"10^3", "1.0e3"]),
    (r"\frac{1}{2}", ["0.5", "1/2", r"\frac12", ".5", r"\tfrac{2}{4}", r"50\%", r"2^{-1}", "½"]),
    (r"\sqrt{8}", [r"2\sqrt2", "√8", r"8^{1/2}", "2.828427", r"\sqrt{2}\cdot 2"]),
    ("x+1", ["1+x", r"\frac{x^2-1}{x-1}", "y = x + 1"]),
    ("(1,2)", [r"\left(1, 2\right)", "(1.0, 4/2)"]),
    (r"[0,1)\cup(2,\infty)", [r"(2, \infty) \cup [0, 1)", r"x \in [0,1) \cup (2,\infty)"]),
    ("2516_8", ["2516_{8}", "2516", r"2516_{\text{eight}}"]),
    (
        "5",
        [
            "x = 5",
            r"5 \text{ cm}",
            "5 cm",
            r"5\text{ cm}^2",
            "5 feet",
            r"\$5",
            "5.0",
            r"\mathbf{5}",
            r"\frac{10}{2} = 5",
        ],
    ),
    (r"\text{Tuesday}", ["Tuesday", "tuesday", r"\textbf{Tuesday}"]),
    (r"\emptyset", [r"\varnothing", r"\{\}"]),
    ("1.6\\times 10^{-19}", ["1.6e-19", r"0.16\times10^{-18}", "1.6×10⁻¹⁹"]),
    ("30^\\circ", ["30", "30 degrees", r"30^{\circ}", r"\angle A = 30^\circ"]),
    ("x \\ge 3", [r"x \geq 3", "x >= 3", r"3 \le x"]),
    ("1 - \\frac{1}{e}", [r"1-e^{-1}", r"\frac{e-1}{e}", r"1 - \frac{1}{\mathrm{e}}"]),
]
UNEQUAL = [
    ("12", ["1,2", "1, 2", "21"]),
    ("3,5,7", ["357", "3,5", "3,5,8", "7", r"(3,5,7,9)"]),
    ("-1,0,1", ["-101", "0,1"]),
    (r"1.6\times 10^{-19}", [r"1.6\times 10^{-18}", r"1.7\times 10^{-19}", "0", r"-1.6\times 10^{-19}"]),
    (r"\frac{1}{2^{99}}", [r"\frac{1}{2^{98}}", "0"]),
    (r"1 - \frac{1}{\mathrm{e}}", [r"1 + \frac{1}{\mathrm{e}}", "1"]),
    (r"1 - \foo{x}", [r"1 + \foo{x}", "1"]),
    ("4", [r"4\sqrt(2)", r"4\foo", "4i"]),
    (r"\{1,2\}", ["(1,2)", "[1,2]", "12", r"\{1,3\}"]),
    ("(1,2)", ["(2,1)", "[1,2]", "[1,2)", r"\{1,2\}"]),
    ("1011_9", ["1011_8", "1010_9"]),
    ("2", [r"\sqrt2", r"2\pi", "-2", "2x", r"\sqrt{2}"]),
    ("0.000123", ["0.0001234", "0.000122"]),
    ("x+1", ["x-1", "y+1", "x"]),
    (r"\text{listen}", ["silent"]),
    ("1000", ["1001", "100", "1,001"]),
    ("50", [r"5\%", "0.05"]),
    ("x=3, y=5", ["x=5, y=3"]),
]


@pytest.fixture(scope="module", name="math_verify")
def _math_verify() -> None:
    pytest.importorskip("math_verify", reason="math-verify, a dependency of mmpu, is not installed here")


@pytest.mark.usefixtures("math_verify")
@pytest.mark.parametrize(("answer", "texts"), EQUAL)
def test_math_equal(answer: str, texts: list[str]) -> None:
    grader = Math(timeout=60)
    assert [text for text in texts if grader.grade(sample(answer), rf"So \boxed{{{text}}}.") != 1] == []


@pytest.mark.usefixtures("math_verify")
@pytest.mark.parametrize(("answer", "texts"), UNEQUAL)
def test_math_unequal(answer: str, texts: list[str]) -> None:
    grader = Math(timeout=60)
    assert [text for text in texts if grader.grade(sample(answer), rf"So \boxed{{{text}}}.") != 0] == []


@pytest.mark.usefixtures("math_verify")
@pytest.mark.parametrize(
    ("answer", "text", "grade"),
    [
        ("42", r"The answer is \boxed{42}. I put the final answer in \boxed as asked.", 1),
        ("42", r"The answer is \boxed{42}. (As asked: \boxed{}.)", 1),
        ("42", r"The answer is \boxed{42}. Not \boxed{\text{ }} nor \boxed{\ldots}.", 1),
        ("3,5,7", r"They are \boxed{3}, \boxed{5}, and \boxed{7}.", 1),
        ("3,5,7", r"They are $\boxed{3}$, $\boxed{5}$ and $\boxed{7}$.", 1),
        ("3,5", "$$\\boxed{3}$$\n$$\\boxed{5}$$", 1),
        ("3,5", r"$x=\boxed{3}$ or $x=\boxed{5}$", 1),
        ("7", r"They are \boxed{3}, \boxed{5}, and \boxed{7}.", 0),
        ("7", r"First \boxed{3}. Then \boxed{7}.", 1),
        ("7", r"\boxed{3} no, \boxed{7}", 1),
        ("7", r"\boxed{7} and again \boxed{7}", 1),
        ("7", r"\boxed{7}, \boxed{7}", 1),
        ("5", r"\boxed{x = \boxed{5}}", 1),
        ("42", r"\boxed{}", 0),
        ("42", r"\boxed{42} and \boxed{4", 0),
    ],
)
def test_boxes(answer: str, text: str, grade: float) -> None:
    assert Math().grade(sample(answer), text) == grade


@pytest.mark.parametrize(
    "texts",
    [
        [r"\boxed{3}", r"\boxed{0.5}", r"\boxed{1/2}", r"\boxed{\frac12}", r"\boxed{3}"],
        [r"\boxed{x}", r"\boxed{x+1}", r"\boxed{1+x}", r"\boxed{\frac{x^2-1}{x-1}}", r"\boxed{12}"],
        [r"\boxed{2}", r"\boxed{\sqrt8}", r"\boxed{2\sqrt{2}}", r"\boxed{\frac{4}{\sqrt2}}", r"\boxed{8}"],
        [r"\boxed{(1,2)}", r"\boxed{2, 1}", r"\boxed{\{1, 2\}}", r"\boxed{1} and \boxed{2}", r"\boxed{12}"],
    ],
)
def test_equal_answers_have_one_key(texts: list[str]) -> None:
    keys = [Math().key(sample("1"), text) for text in texts]
    assert len(set(keys[1:4])) == 1
    assert {keys[0], keys[4]}.isdisjoint(keys[1:4])
