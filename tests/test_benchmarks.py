"""The benchmarks' YAMLs, and the real files that are at hand: every row loads, every right answer is right."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import ROOT
from mmpu import plugins
from mmpu.config import load_yaml
from mmpu.core import UserError
from mmpu.task.check import check
from mmpu.task.sample import Maker
from mmpu.task.yaml_task import YamlTask, load_task

YAMLS = {path.stem: path for path in sorted((ROOT / "tasks").glob("*.yaml"))}


@pytest.mark.parametrize("name", YAMLS)
def test_a_yaml_says_what_it_is_and_whose(name: str) -> None:
    text = YAMLS[name].read_text()
    config = load_task(name).config
    assert len(text.splitlines()) <= 60, "a page at most"
    assert max(map(len, text.splitlines())) <= 120
    assert config.about.endswith(".")
    assert config.licence
    assert config.evaluate in config.splits
    if name not in ("market", "shapes"):
        assert config.citation
        assert config.obtain
        assert config.traps
        assert config.dataset
    for split in config.splits.values():
        assert split.local or not (split.source or config.source or "").startswith("hf:"), "--data must find files"
    for other in config.held_out:
        task, _, split = other.partition("/")
        assert split in load_task(task).config.splits


def test_no_two_tasks_share_a_name() -> None:
    owner: dict[str, str] = {}
    for task, path in YAMLS.items():
        for name in (task, *load_yaml(path).get("aliases", ())):
            assert owner.setdefault(name.casefold(), task) == task
    paper = ("CFCW", "PBFG", "CountProb", "Geometry", "A-OKVQA-MC", "A-OKVQA-RG")
    assert {load_task(name).name for name in paper} == {
        *("writingprompts-cw", "writingprompts-eu", "compmath-count", "compmath-geometry"),
        *("aokvqa-mc", "aokvqa-rationale"),
    }


# -----------------------------------------------------------------------------------------------------------------
# rows of the form that the hub has, where the files that are at hand have another

HUB: dict[str, list[dict[str, Any]]] = {
    "compmath-count": [
        {
            "problem": "1+1?",
            "level": "Level 1",
            "type": "Counting & Probability",
            "solution": r"It is $\boxed{\frac42}$.",
        }
    ],
    "aime24": [{"id": 60, "problem": "Count.", "solution": "...", "answer": "073", "url": "", "year": "2024"}],
    "hmmt25": [{"problem_idx": 1, "problem": "Find.", "answer": r"\frac{1}{576}", "problem_type": ["Algebra"]}],
    "math500": [
        {
            "problem": "Convert.",
            "solution": "...",
            "answer": r"\left( 3, \frac{\pi}{2} \right)",
            "subject": "Precalculus",
            "level": 2,
            "unique_id": "test/precalculus/807.json",
        }
    ],
    "gsm-plus": [
        {
            "question": "How many?",
            "solution": "3 + 4 = 7",
            "answer": answer,
            "perturbation_type": kind,
            "seed_question": "How many then?",
            "seed_solution": "",
            "seed_answer": "7",
        }
        for answer, kind in (("7", "numerical substitution"), ("None", "critical thinking"))
    ],
    "svamp": [
        {
            "ID": "chal-1",
            "Body": "He has 3",
            "Question": "How many?",
            "Equation": "( 3.0 )",
            "Answer": "3.0",
            "Type": "x",
        }
    ],
    "aokvqa-da": [
        {
            "image": "data:image/png;base64,AA==",
            "question_id": "q",
            "question": "What?",
            "choices": ["a", "b", "c", "d"],
            "correct_choice_idx": 0,
            "direct_answers": "[\"dog's\", 'cat', 'cat', 'cat']",
            "difficult_direct_answer": False,
            "rationales": ["x", "y", "z"],
        }
    ],
    "gpqa-diamond": [
        {
            "Record ID": "rec1",
            "Question": "Which?\n",
            "Correct Answer": "four \n",
            "Incorrect Answer 1": "one",
            "Incorrect Answer 2": "two",
            "Incorrect Answer 3": "three",
            "Explanation": "So it is.",
        }
    ],
    "ifeval": [
        {
            "key": 1000,
            "prompt": "Write without commas.",
            "instruction_id_list": ["punctuation:no_comma"],
            "kwargs": [{"num_words": None, "relation": None}],
        }
    ],
    "healthbench": [
        {
            "prompt_id": "p",
            "prompt": [
                {"role": "user", "content": "It hurts."},
                {"role": "assistant", "content": "Where?"},
                {"role": "user", "content": "Here."},
            ],
            "rubrics": [
                {"criterion": "Asks since when.", "points": 5, "tags": []},
                {"criterion": "Lies.", "points": -4},
            ],
            "ideal_completions_data": None,
            "example_tags": [],
        }
    ],
}


def samples(name: str) -> Iterator[tuple[YamlTask, Any]]:
    task = load_task(name)
    split = task.config.evaluate
    make = Maker(task.config, task.path, task.folder, split)
    for number, row in enumerate(HUB[name], 1):
        yield task, make(number, make.prepare(row, "here"), "here")


@pytest.mark.parametrize("name", HUB)
def test_rows_of_the_hub_become_samples(name: str) -> None:
    for task, sample in samples(name):
        ideal = task.grader.ideal(sample) if task.grader and name != "ifeval" else None
        if ideal and name not in ("compmath-count", "aime24", "hmmt25", "math500"):  # those need math-verify's process
            assert task.grade(sample, ideal[0]) == ideal[1] == 1
            assert task.grade(sample, sample.reference) == 1
        assert sample.prompt[-1].parts[-1].data.strip()


def test_what_the_hub_s_rows_become() -> None:
    made = {name: [sample for _, sample in samples(name)] for name in HUB}
    assert made["compmath-count"][0].answer == r"\frac42"
    assert made["aime24"][0].reference == r"The answer is $\boxed{073}$."
    assert made["aokvqa-da"][0].meta["answers"] == ["dog's", "cat", "cat", "cat"]
    assert made["svamp"][0].prompt[0].text.startswith("He has 3. How many?\n")
    gpqa = made["gpqa-diamond"][0]
    assert sorted(gpqa.meta["choices"]) == ["four", "one", "three", "two"]
    assert f"({'ABCD'[gpqa.meta['choices'].index('four')]}) four\n" in gpqa.prompt[0].text
    assert [m.role for m in made["healthbench"][0].prompt] == ["user", "assistant", "user"]
    assert made["healthbench"][0].reference == (
        "A good answer, with points for each:\n+5: Asks since when.\n-4: Lies.\n"
    )


STORIES = {
    "train": [
        ("[ CW ] Write a story .", "Once <newline> <newline> there ."),
        ("[ WP ] Go .", "x"),
        ("[ CW ] Two .", "y"),
    ],
    "valid": [("[ CW ] Three , in a row .", "He said : `` do n't ! ''"), ("[ EU ] A house ( big ) .", "It 's $ 5 .")],
    "test": [("[ CW ] two .", "z"), ("[ CW ] Two .", "second story"), ("[ EU ] Four ?", "w")],
}


def test_writing_prompts_as_published(tmp_path: Path) -> None:
    for split, pairs in STORIES.items():
        for side, lines in zip(("source", "target"), zip(*pairs, strict=True), strict=True):
            (tmp_path / f"{split}.wp_{side}").write_text("".join(f"{line}\n" for line in lines))
    cw, eu = (load_task(f"writingprompts-{tag}", data=str(tmp_path)) for tag in ("cw", "eu"))
    (train,) = cw.samples("train")
    assert (train.prompt[0].text, train.reference) == ("[CW] Write a story.", "Once\n\nthere.")
    assert cw.dropped["train"] == {"where": 2}, "another tag, and a prompt of the test split"
    assert [s.reference for s in cw.samples("validation")] == ['He said: "do n\'t!"'.replace("do n't", "don't")]
    assert [s.reference for s in cw.samples("test")] == ["z"]
    assert cw.dropped["test"] == {"where": 1, "unique": 1}
    assert [(s.prompt[0].text, s.reference) for s in eu.samples("validation")] == [("[EU] A house (big).", "It's $5.")]
    assert check(cw).problems == []


def test_gpqa_from_its_csv(tmp_path: Path) -> None:
    with (tmp_path / "gpqa_diamond.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(HUB["gpqa-diamond"][0]))
        writer.writeheader()
        writer.writerows(HUB["gpqa-diamond"])
    task = load_task("gpqa", data=str(tmp_path))
    assert len(task.samples("test")) == 1
    assert check(task).problems == []


# -----------------------------------------------------------------------------------------------------------------
# real files

FOLDERS = {
    "compmath-count": "math",
    "compmath-geometry": "math",
    "gsm8k": "gsm8k",
    "svamp": "svamp",
    "aime24": "olympiad",
    "toolalpaca": "toolalpaca",
    "toolalpaca-compat": "toolalpaca",
    "aokvqa-mc": "aokvqa",
    "aokvqa-rationale": "aokvqa",
    "aokvqa-da": "aokvqa",
}
SIZES = {
    "compmath-count": {"train": 771, "test": 474},
    "compmath-geometry": {"train": 870, "test": 479},
    "svamp": {"test": 1000},
    "aime24": {"test": 30},
    "toolalpaca": {"test": 68, "test_real": 110},
    "toolalpaca-compat": {"test": 68, "test_real": 110},
    "aokvqa-mc": {"validation": 1145},
    "aokvqa-rationale": {"validation": 1145},
    "aokvqa-da": {"validation": 1075},
}
LIMITED = {"toolalpaca-compat": 4, "aokvqa-da": 82}
"""Right answers that cannot get 1.0: nested arguments under the published rule; answers that no three people gave."""


def at_hand(shared: Path, name: str) -> YamlTask:
    return load_task(name, data=str(shared / "data/datasets" / FOLDERS[name]))


@pytest.mark.parametrize("name", SIZES)
def test_every_row_of_the_real_files_loads(shared: Path, name: str) -> None:
    task = at_hand(shared, name)
    assert {split: len(task.samples(split)) for split in SIZES[name]} == SIZES[name]


@pytest.mark.parametrize("name", [name for name in FOLDERS if name != "aokvqa-rationale"])
def test_every_right_answer_of_the_real_files_is_right(shared: Path, name: str) -> None:
    task = at_hand(shared, name)
    assert task.grader is not None
    limited = 0
    for split in SIZES.get(name, {"train": 0, "test": 0}):
        for sample in task.samples(split):
            answer, best = task.grader.ideal(sample) or ("", -1.0)
            assert task.grade(sample, answer) == best, sample.id
            limited += best < 1
            if sample.reference is not None:
                assert task.grade(sample, sample.reference) == best, sample.id
    assert limited == LIMITED.get(name, 0)


def test_real_training_pools_hold_no_real_evaluation_item(shared: Path) -> None:
    data = [f"{load_task(name).config.dataset}={shared / 'data/datasets' / folder}" for name, folder in FOLDERS.items()]
    for name in ("compmath-count", "gsm8k"):
        task = at_hand(shared, name)
        found = check(task, data)
        assert found.problems == []
        assert "train and test share no origin" in found.facts


def test_aokvqa_without_its_pictures_and_with_them(shared: Path, tmp_path: Path) -> None:
    bare = at_hand(shared, "aokvqa-mc")
    with pytest.raises(UserError) as error:
        bare.ready("validation[:10]")
    assert "task aokvqa-mc: 10 of 10 pictures of 'validation[:10]' are missing: " in str(error.value)
    assert "/val2017/000000461751.jpg, " in str(error.value)
    assert "http://images.cocodataset.org/zips/{train,val}2017.zip" in str(error.value)

    rows = json.loads((shared / "data/datasets/aokvqa/aokvqa_v1p0_val.json").read_text())[:10]
    (tmp_path / "aokvqa_v1p0_val.json").write_text(json.dumps(rows))
    (tmp_path / "val2017").mkdir()
    for n, row in enumerate(rows):
        Image.new("RGB", (8, 8), (n * 20, 0, 0)).save(tmp_path / f"val2017/{row['image_id']:012d}.jpg")
    task = load_task("aokvqa-mc", data=str(tmp_path))
    sample = task.ready("validation")[0]
    assert sample.prompt[0].text == (
        "Question: What is in the motorcyclist's mouth?\n"
        "Options: (0) toothpick (1) food (2) popsicle stick (3) cigarette "
    )
    assert (sample.reference, sample.answer) == ("Answer: cigarette", "cigarette")
    assert task.grade(sample, "The answer is (3).") == 1


def test_names_of_tasks_are_file_names() -> None:
    assert {name: path.name for name, path in plugins.data("tasks").items() if path.parent == ROOT / "tasks"} == {
        name: f"{name}.yaml" for name in YAMLS
    }
