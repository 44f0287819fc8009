"""Methods, scorers and teachers that do not fit: refused before anything is trained, with the reason; replies that
cannot be read: never a score."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from endpoint import Endpoint, said, weighed
from mmpu.core import Sample, UserError, user
from mmpu.recipes import evaluation as assess
from mmpu.recipes import training as recipe
from mmpu.student import StudentConfig, load_student, misfit
from tiny import save

ROWS = 8


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two students of different tokenizers, a task with a grader and one that nobody can grade."""
    folder = tmp_path_factory.mktemp("misfits")
    for family in ("qwen2", "llama"):
        save(family, folder / family)
    rows = [{"id": f"r{i}", "q": f"yes or no {i}?", "a": ("yes", "no")[i % 2]} for i in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    anchors = [{"id": row["id"], "output": f"The answer is {row['a']}."} for row in rows]
    (folder / "anchors.jsonl").write_text("".join(json.dumps(a) + "\n" for a in anchors))
    task = {
        "source": "rows.jsonl",
        "id": "{{ id }}",
        "prompt": [{"user": "{{ q }}"}],
        "answer": "{{ a }}",
        "reference": "The answer is {{ a }}.",
        "grader": "final_answer",
        "splits": {"train": {}, "test": {"part_of": "train"}},
        "sampling": {"max_tokens": 6},
    }
    (folder / "graded.yaml").write_text(yaml.safe_dump(task))
    del task["grader"], task["reference"]
    (folder / "open.yaml").write_text(yaml.safe_dump(task))
    return folder


def config(workshop: Path, run: Path, stage: dict[str, Any], task: str = "graded", **changes: Any) -> str:
    shape = {"name": "one", "split": "train", "k": 3, "prompts_per_step": 4, "optim": {"lr": 1e-3}}
    values = {
        "run": str(run),
        "student": {"model": str(workshop / "qwen2"), "device": "cpu"},
        "task": str(workshop / f"{task}.yaml"),
        "teacher": {"name": "replay", "path": str(workshop / "anchors.jsonl")},
        "stages": [{**shape, **stage}],
    } | changes
    path = run.parent / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return str(path)


BLACK_BOX = {"name": "openai", "model": "gpt", "url": "http://127.0.0.1:9/v1"}


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ({"method": "dpo", "scorer": "rule"}, {"task": "open"}, "abstain on every prompt: task open has no grader"),
        (
            {"method": "grpo", "scorer": {"name": "rubric", "rubricator": BLACK_BOX}},
            {"teacher": None},
            "abstain on every prompt: rubric compares with m=4 answers of a teacher",
        ),
        ({"method": "dpo", "scorer": "rule", "k": 1}, {}, "k=1, and a listwise method"),
        ({"method": "grpo", "scorer": "rule", "k": 1}, {}, "k=1, and a listwise method"),
        ({"method": "ppo", "scorer": "majority", "k": 1}, {}, "k=1, and a listwise scorer"),
        (
            {"method": "lopd"},
            {"teacher": BLACK_BOX},
            "next-token distribution, which an engine that only answers does not give",
        ),
        ({"method": {"name": "lopd", "model": "LLAMA"}}, {}, r"tokenizers of .*qwen2 and its teacher .*llama differ"),
        ({"method": {"name": "lopd", "model": "nowhere/at-all"}}, {}, "cannot load the tokenizer of 'nowhere/at-all'"),
        ({"method": "opsd"}, {"task": "open"}, "'r0' has no reference to show the teacher"),
        ({"method": "sft", "leave_out": ["low"]}, {}, r"`leave_out: \['low'\]` goes by the anchor"),
        ({"method": "grpo", "scorer": "rule", "leave_out": ["cut"]}, {}, "goes by the anchor"),
        ({"method": "pbsd"}, {"rollout": "vllm_server"}, "second set of weights, which vllm_server does not hold"),
    ],
)
def test_what_does_not_fit_is_refused(
    workshop: Path, tmp_path: Path, stage: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    if isinstance(stage["method"], dict) and stage["method"].get("model") == "LLAMA":
        stage = {"method": {"name": "lopd", "model": str(workshop / "llama")}}
    task = changes.get("task", "graded")
    others = {key: value for key, value in changes.items() if key != "task"}
    with pytest.raises(UserError, match=message):
        recipe.train(config(workshop, tmp_path / "run", stage, task, **others))
    assert not (tmp_path / "run").exists(), "nothing was begun"


def lines(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def test_a_judge_that_cannot_be_read_trains_nothing(workshop: Path, tmp_path: Path, endpoint: Endpoint) -> None:
    """Every verdict without mass on yes and no: the stage stops before its first update."""
    endpoint.answer = lambda *_: weighed({"Hello": 0.9, "Hi": 0.05})
    judge = {"name": "token_judge", "judge": {"name": "openai", "model": "judge", "url": endpoint.url}}
    with pytest.raises(UserError, match=r"abstained on all \d+ candidates.*The weights are as they were"):
        recipe.train(config(workshop, tmp_path / "run", {"method": "dpo", "scorer": judge}))
    assert not list((tmp_path / "run").glob("*/student.json"))
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_rubrics_that_cannot_be_read_stop_a_stage(workshop: Path, tmp_path: Path, endpoint: Endpoint) -> None:
    """Twice each, under another seed; the groups are masked, and more than `max_failed` of them is too many."""
    endpoint.answer = lambda *_: said("As a language model, I cannot.")
    rubric = {"name": "rubric", "m": 1, "rubricator": {"name": "openai", "model": "judge", "url": endpoint.url}}
    with pytest.raises(UserError, match="4 of 4 groups got no readable rubric or verdict, more than 40%"):
        recipe.train(
            config(workshop, tmp_path / "run", {"method": "grpo", "scorer": rubric, "preflight": {"prompts": 0}})
        )
    assert len(endpoint.bodies) == 2 * 4
    assert {body["seed"] for body in endpoint.bodies} == {0, 1}


def test_one_unread_candidate_is_masked_not_scored_zero(workshop: Path, tmp_path: Path, endpoint: Endpoint) -> None:
    """A third of the replies is no number, twice: those leave their groups' statistics and are counted."""

    def mark(_: int, body: dict[str, Any]) -> Any:
        text = body["messages"][0]["content"]
        return said("none" if len(text) % 3 == 0 else f"0.{len(text) % 10}")

    endpoint.answer = mark
    judge = {"name": "scalar_judge", "judge": {"name": "openai", "model": "judge", "url": endpoint.url}}
    run = recipe.train(
        config(workshop, tmp_path / "run", {"method": "grpo", "scorer": judge, "k": 6, "steps": 2, "max_skipped": 1.0})
    )
    scores = [r["score"] for g in lines(run, "groups.jsonl") for r in g["responses"]]
    unread = [score for score in scores if score is None or score != score]
    assert 0 < len(unread) < len(scores)
    assert lines(run, "metrics.jsonl")[0]["masked_candidates"] > 0


def test_a_judge_is_paid_for_every_candidate_of_every_epoch(workshop: Path, tmp_path: Path, endpoint: Endpoint) -> None:
    """NK × epochs readings by a judge; anchors once per prompt over three epochs and a second run."""
    endpoint.answer = lambda _, body: weighed({"Yes": 0.1 + len(body["messages"][0]["content"]) % 7 / 10, "No": 0.1})
    judge = {"name": "token_judge", "judge": {"name": "openai", "model": "judge", "url": endpoint.url}}
    run = recipe.train(config(workshop, tmp_path / "run", {"method": "grpo", "scorer": judge, "epochs": 3.0}))
    asked = [r for g in lines(run, "groups.jsonl") for r in g["responses"]]
    assert len(asked) == ROWS * 3 * 3
    distinct = {(g["id"], r["text"]) for g in lines(run, "groups.jsonl") for r in g["responses"] if r["text"].strip()}
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["external_judge_calls"] == len(distinct), "the same answer is not paid for again"
    assert "teacher_calls" not in ledger

    stage = {"method": "sft", "epochs": 3.0}
    first = recipe.train(config(workshop, tmp_path / "anchored", stage))
    assert json.loads((first / "ledger.json").read_text())["teacher_calls"] == ROWS
    again = recipe.train(config(workshop, tmp_path / "again", stage, seed=1))
    assert "teacher_calls" not in json.loads((again / "ledger.json").read_text())


def test_everything_that_does_not_fit_is_named_before_the_first_step(
    workshop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Answers and scorers' prompts are measured, and what is left out is said and kept."""
    answers = [json.loads(line) for line in (workshop / "anchors.jsonl").read_text().splitlines()]
    for number in (2, 5):
        answers[number]["output"] = "yes no " * 1500
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    teacher = {"teacher": {"name": "replay", "path": str(tmp_path / "long.jsonl")}}
    with pytest.raises(UserError, match=r"(?s)2 of 8 prompts do not fit:.*2 long: sample 'r2'.*leave_out: \[long\]"):
        recipe.train(config(workshop, tmp_path / "run", {"method": "sft"}, **teacher))
    scored = {"method": "ldl_grpo", "scorer": "self_eval"}
    with pytest.raises(UserError, match=r"2 long: sample 'r2'"):
        recipe.train(config(workshop, tmp_path / "run", scored, **teacher))
    run = recipe.train(config(workshop, tmp_path / "run", {"method": "sft", "leave_out": ["long"]}, **teacher))
    assert "2 of 8 prompts do not fit" in " ".join(capfd.readouterr().err.split())
    assert [row["sample"] for row in json.loads((run / "0-one/left_out.json").read_text())["left_out"]] == ["r2", "r5"]
    assert "overlong_groups" not in lines(run, "metrics.jsonl")[0]


def test_a_sampler_that_holds_less_than_the_model_is_measured(workshop: Path) -> None:
    model = load_student(StudentConfig(str(workshop / "qwen2"), device="cpu"))
    prompt = Sample("r0", user("yes or no?"))
    assert misfit(model, prompt, room=100) is None
    found = misfit(model, prompt, room=100, longest=110)
    assert found is not None
    assert found.reason.endswith("max_tokens=100 to sample, the sampler holds max_length=110")


def test_thoughts_that_are_not_trained_on_are_counted(workshop: Path, tmp_path: Path) -> None:
    """A template opens a thought, thinking is off: a teacher's thoughts are left away, and the stage says so."""
    shutil.copytree(workshop / "qwen2", tmp_path / "thinker")
    place = tmp_path / "thinker/chat_template.jinja"
    text = place.read_text()
    place.write_text(text.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"))
    assert place.read_text() != text
    answers = [{"id": f"r{i}", "output": "<think>\nhm\n</think>\n\nyes" if i < 4 else "no"} for i in range(ROWS)]
    (tmp_path / "anchors.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    teacher = {"name": "replay", "path": str(tmp_path / "anchors.jsonl")}
    stage = {"method": "sft", "prompts_per_step": 8, "steps": 1}
    student = {"model": str(tmp_path / "thinker"), "device": "cpu"}
    run = recipe.train(config(workshop, tmp_path / "run", stage, teacher=teacher, student=student))
    assert lines(run, "metrics.jsonl")[0]["dropped_thoughts"] == 0.5
    kept = student | {"template_options": {"enable_thinking": True}}
    run = recipe.train(config(workshop, tmp_path / "kept", stage, teacher=teacher, student=kept))
    assert "dropped_thoughts" not in lines(run, "metrics.jsonl")[0]


def test_a_scorers_prompt_is_measured_with_the_longest_candidate(workshop: Path, tmp_path: Path) -> None:
    stage = {"method": "grpo", "scorer": "self_eval", "sampling": {"max_tokens": 2000}}
    with pytest.raises(UserError, match=r"(?s)8 of 8 prompts do not fit.*a candidate of max_tokens=2000"):
        recipe.train(config(workshop, tmp_path / "run", stage))


def test_what_a_contender_cannot_read_is_named_before_anyone_answers(workshop: Path, tmp_path: Path) -> None:
    """All of every model's: a prompt longer than the context, a role that a template refuses. Few enough count as
    unanswered, and recorded answers need no model."""
    rows = [{"id": f"r{i}", "q": f"yes or no {i}?", "a": "yes"} for i in range(ROWS)]
    rows[3]["q"] = "yes no " * 1500
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recorded.jsonl").write_text("".join(json.dumps({"id": r["id"], "output": "yes"}) + "\n" for r in rows))
    values = yaml.safe_load((workshop / "graded.yaml").read_text())
    values["prompt"] = [{"system": "Be brief."}, {"user": "{{ q }}"}]
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(workshop / "qwen2", tmp_path / "picky")
    template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    place = tmp_path / "picky/chat_template.jinja"
    place.write_text(template + place.read_text())

    def board(*systems: str, **shares: float) -> Any:
        judging = assess.JudgingOptions(**shares)
        folder = str(tmp_path / "boards")
        return assess.evaluate(
            assess.EvalOptions(
                systems, str(tmp_path / "task.yaml"), "rule", recorded, "test", folder=folder, judging=judging
            )
        )

    recorded = f"recorded={tmp_path / 'recorded.jsonl'}"
    systems = (f"plain={workshop / 'qwen2'}", f"picky={tmp_path / 'picky'}")
    with pytest.raises(UserError) as error:
        board(*systems)
    said = str(error.value)
    assert "plain: 1 of 8 prompts do not fit:\n- 1 long: sample 'r3': the prompt has" in said
    assert "picky: 8 of 8 prompts do not fit:\n- 8 unreadable: sample 'r0': the chat template of" in said
    assert not (tmp_path / "boards").exists(), "nobody answered"
    (entry,) = [e for e in board(systems[0], max_missing=0.2).entries if e.system.name == "plain"]
    assert entry.counts["ours.missing"] == 1
