"""What is trained on: anchors that were cut, empty or all alike, scores that are none, texts that do not fit, prompts
that are too few. Each is counted, named, and never a quiet part of the loss."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpu.core import Engine, Failed, Group, Response, Sample, Sampling, Scorer, UserError
from mmpu.engines.replay import Replay
from mmpu.learning import Method
from mmpu.losses import overlong_penalty
from mmpu.methods.dpo import DPO
from mmpu.methods.grpo import GRPO
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.methods.opsd import OPSD
from mmpu.methods.sft import SFT
from mmpu.recipes import run_config
from mmpu.recipes import training as recipe
from mmpu.scorers.majority import Majority
from mmpu.store import Ledger
from mmpu.train.collect import _repeats
from mmpu.train.fitting import Fitting
from mmpu.train.preflight import Preflight
from mmpu.train.rollout import Rollout
from tiny import sample, save, shared_student

CUT = {"r1", "r2", "r4"}
EMPTY = "r7"
ROWS = 8


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --------------------------------------------------------------------------------------------------- anchors, scores


@dataclass(frozen=True)
class By(Scorer):
    """Whatever the test says."""

    rule: Callable[[Group], Any]

    def score(self, groups: Sequence[Group]) -> list[tuple[float, ...]]:
        return [self.rule(group) for group in groups]


@dataclass(frozen=True)
class Echo(Engine):
    """Keeps what it was asked for."""

    asked: list[Sampling]

    @property
    def identity(self) -> str:
        return "echo"

    def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[tuple[Response, ...] | Failed]:
        self.asked.append(sampling)
        return [
            (Response("whole" if s.id == "a" else "  " if s.id == "b" else "cut o", finished=s.id != "c"),)
            for s in samples
        ]

    def choose(self, samples: Sequence[Sample], options: Sequence[str]) -> list[Any]:
        raise AssertionError("a teacher answers; nobody asks it to choose")


def rollout(
    tmp_path: Path, method: Method, scorer: Scorer | None = None, teacher: Engine | None = None, **more: Any
) -> Rollout:
    ledger = Ledger(tmp_path / "ledger.json")
    return Rollout(method, scorer, Echo([]), teacher, 2, Sampling(), ledger, **more)


def test_anchors_know_whether_they_are_whole_and_an_empty_one_is_no_answer(tmp_path: Path) -> None:
    teacher = Echo([])
    asking = Sampling(temperature=0.6, max_tokens=99)
    whole, empty, cut = rollout(tmp_path, SFT(), teacher=teacher, asking=asking).anchored([sample(n) for n in "abc"])
    assert teacher.asked == [asking]
    assert isinstance(whole, Group)
    assert whole.taught == Response("whole")
    assert not whole.notes
    assert isinstance(empty, Failed)
    assert "'b' is empty" in empty.reason
    assert isinstance(cut, Group)
    assert cut.taught == Response("cut o", finished=False)
    assert "'c' was cut" in cut.notes["cut_anchors"]
    student = shared_student("qwen2")
    rows = [SFT().supervise(group)[0] for group in (whole, cut)]
    ends = [student.response_ids(row.sample, row.response)[-1] == student.end for row in rows]
    assert ends == [True, False], "an end of sequence that was never said teaches to stop there"
    for method in (DPO("anchor_vs_sample"), DPO(include_anchor=True)):
        group = Group(sample("c"), "cut o", (Response("x", (1,)),), (0.1,), 0.9, anchor_finished=False)
        assert [row.response.finished for row in method.supervise(group) if row.beats] == [False]


PAIR = (Response("the answer is 3", (1,)), Response("the answer is 4", (2,)))


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((1.0,), r"By returned 1 scores for the 2 responses of sample 'a'"),
        ((1.0, 0.0, 0.5), r"By returned 3 scores for the 2 responses"),
        (("good", "bad"), r"By returned \('good', 'bad'\) for sample 'a'; a score is a number"),
        ((None, 1.0), r"a score is a number"),
    ],
)
def test_a_scorer_that_returns_no_score_per_response_is_named(tmp_path: Path, found: Any, message: str) -> None:
    group = Group(sample("a"), "3", PAIR)
    with pytest.raises(UserError, match=message):
        rollout(tmp_path, GRPO(), By(lambda _: found)).scored([group])
    with pytest.raises(UserError, match="returned the scores of 0 groups, it was asked for 1"):
        rollout(tmp_path, GRPO(), type("None_", (By,), {"score": lambda *_: []})(lambda _: ())).scored([group])


def test_an_infinite_score_is_masked_counted_and_named(tmp_path: Path) -> None:
    (group,) = rollout(tmp_path, GRPO(), By(lambda _: (math.inf, 1.0))).scored([Group(sample("a"), "3", PAIR)])
    assert math.isnan(group.scores[0])
    assert group.scores[1] == 1.0
    assert group.notes == {"infinite_scores": "sample 'a': 1 of By's scores are infinite, and are masked"}


def test_the_anchor_has_no_say_among_the_candidates(tmp_path: Path) -> None:
    """One vote more for 4 would have made it the group's answer."""
    voices = tuple(Response(f"the answer is {n}", (i,)) for i, n in enumerate("343"))
    for anchor, own in (("the answer is 4", 0.0), ("it is 3", 1.0)):
        tied = Group(sample("a"), anchor, voices[:2])
        (group,) = rollout(tmp_path, LDLGRPO(), Majority()).scored([tied])
        assert group.scores == (1.0, 0.0), "a tie goes to the first candidate, whatever the anchor says"
        assert group.anchor_score == own
    seen: list[int] = []
    counting = By(lambda group: (seen.append(len(group.responses)), (0.2,) * len(group.responses))[1])
    (group,) = rollout(tmp_path, LDLGRPO(), counting).scored([Group(sample("a"), "3", voices)])
    assert seen == [1, 3], "apart, and before"
    assert (group.scores, group.anchor_score) == ((0.2,) * 3, 0.2)
    assert "scores 0.2" in group.notes["low_anchors"]


def test_a_teacher_that_says_one_thing_is_refused_by_the_preflight(tmp_path: Path) -> None:
    class Same(Echo):
        def generate(self, samples: Sequence[Sample], n: int, sampling: Sampling) -> list[Any]:
            return [
                (Response(f"I cannot  help{' ' * i}" if i % 2 else "I CANNOT help"),) for i, _ in enumerate(samples)
            ]

    for count, message in ((3, "says the same to all of the first 3 prompts, 'I CANNOT help'"), (1, "1 prompts with")):
        with pytest.raises(UserError, match=message):
            Preflight()(
                rollout(tmp_path, LDLGRPO(), By(lambda g: (1.0,) * len(g.responses)), Same([])),
                [sample(f"s{i}") for i in range(count)],
                None,  # type: ignore[arg-type]
                0,
            )


def test_the_overlong_penalty_is_bounded() -> None:
    assert [overlong_penalty(n, 20480, 4096, 0.5) for n in (0, 16384, 18432, 20480, 24576, 10**6)] == [
        *(0, 0, -0.25),
        *(-0.5, -0.5, -0.5),
    ]


# --------------------------------------------------------------------------------------------------------- what fits


def test_a_solution_loses_its_beginning_in_tokens_and_never_the_question() -> None:
    student = shared_student("qwen2")
    assert student.encoder.limit == 2048
    long = Sample("x", sample("x").prompt, reference="first " + "yes no " * 1500 + "last words")
    group = Fitting(student, student, OPSD(), 64).context(Group(long))
    assert group.context is not None
    text = group.context.prompt[-1].text
    assert "last words" in text
    assert "first" not in text
    assert "What colour" in text
    left = student.encoder.limit - len(student.encode(group.context).ids)
    assert 64 <= left <= 64 + 16, "no more is cut than has to be"
    assert "'x': of a solution of" in group.notes["cut_contexts"]
    assert "tokens" in group.notes["cut_contexts"]
    short = Sample("y", sample("y").prompt, reference="red")
    assert Fitting(student, student, OPSD(), 64).context(Group(short)).notes == {}


def test_a_row_that_does_not_fit_is_named_in_tokens() -> None:
    student = shared_student("qwen2")
    fitting = Fitting(student, student, SFT(), 64)
    rows = SFT().supervise(Group(sample("x"), "yes no " * 1500))
    assert "'x': a prompt of" in (fitting.overlong(rows) or "")
    assert "more than the 2048 that" in (fitting.overlong(rows) or "")
    assert fitting.overlong(SFT().supervise(Group(sample("x"), "red"))) is None
    prompt = Group(sample("x", "yes no " * 1500), "red")
    assert "reads 2048 at most" in (fitting.overlong(SFT().supervise(prompt)) or "")


def test_repeats_are_numbered() -> None:
    assert _repeats([sample(name) for name in "abacab"]) == [0, 0, 1, 0, 2, 1]


# -------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("anchors")
    save("qwen2", folder / "model")
    rows = [{"id": f"r{i}", "q": f"yes or no {i}?", "a": ("yes", "no")[i % 2]} for i in range(ROWS)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    anchors = [
        {"id": f"r{i}", "output": "" if f"r{i}" == EMPTY else "It is clear that the", "finished": f"r{i}" not in CUT}
        for i in range(ROWS)
    ]
    text = "".join(json.dumps(anchor) + "\n" for anchor in anchors)
    (folder / "anchors.jsonl").write_text("\ufeff" + text, encoding="utf-8")
    task = {
        "source": "rows.jsonl",
        "id": "{{ id }}",
        "prompt": [{"user": "{{ q }}"}],
        "answer": "{{ a }}",
        "reference": "The answer is {{ a }}.",
        "grader": "final_answer",
        "sampling": {"max_tokens": 6},
        "splits": {"train": {}},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    return folder


def train(workshop: Path, run: Path, **stage: Any) -> Path:
    shape = {"name": "one", "split": "train", "prompts_per_step": 4, "steps": 2, "optim": {"lr": 1e-3}}
    values = {
        "run": str(run),
        "student": {"model": str(workshop / "model"), "device": "cpu"},
        "task": str(workshop / "task.yaml"),
        "teacher": {"name": "replay", "path": str(workshop / "anchors.jsonl")},
        "stages": [{**shape, **stage}],
    }
    return recipe.train_run(run_config.read(values, "test"))


def test_cut_and_empty_anchors_are_counted_and_may_be_left_out(
    workshop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file begins with a byte order mark, as rows may."""
    assert len(Replay(str(workshop / "anchors.jsonl")).lacking([sample(f"r{i}") for i in range(ROWS)])) == 0
    steps = lines(train(workshop, tmp_path / "kept", method="sft") / "metrics.jsonl")
    assert sum(step["cut_anchors"] * 4 for step in steps) == len(CUT)
    assert sum(step["unanchored_groups"] * 4 for step in steps) == 1
    said = " ".join(capfd.readouterr().err.split())
    assert "cut_anchors is" in said
    assert "was cut by its length limit" in said
    left = train(workshop, tmp_path / "left", method="sft", leave_out=["cut"], max_skipped=1.0)
    assert [s["cut_anchors"] for s in lines(left / "metrics.jsonl")] == [s["cut_anchors"] for s in steps]
    assert [s["loss"] for s in lines(left / "metrics.jsonl")] != [s["loss"] for s in steps]
    with pytest.raises(UserError, match=r"3 of 8 prompts are left out of a step, for example: the teacher's answer to"):
        train(workshop, tmp_path / "few", method="sft", leave_out=["cut"], max_skipped=0.2, prompts_per_step=32)


def test_fewer_prompts_than_a_step_are_not_copied(
    workshop: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = train(workshop, tmp_path / "run", method="grpo", scorer="rule", k=2, prompts_per_step=32, steps=2)
    assert "its split holds 8 prompts, so a step takes 8" in " ".join(capfd.readouterr().err.split())
    groups = lines(run / "groups.jsonl")
    assert sorted(g["id"] for g in groups if g["step"] == 0) == [f"r{i}" for i in range(ROWS)]
    assert groups[0]["prompt"].startswith("yes or no")


def test_a_prompt_that_comes_twice_within_a_step_has_other_candidates(workshop: Path, tmp_path: Path) -> None:
    """Five prompts, four a step: epochs end within steps."""
    run = train(workshop, tmp_path / "run", method="grpo", scorer="rule", k=2, split="train[:5]", steps=8)
    twice = 0
    by_prompt: dict[tuple[int, str], list[list[str]]] = {}
    for group in lines(run / "groups.jsonl"):
        by_prompt.setdefault((group["step"], group["id"]), []).append([r["text"] for r in group["responses"]])
    for texts in by_prompt.values():
        twice += len(texts) > 1
        assert len({str(each) for each in texts}) == len(texts)
    assert twice


def test_every_sampled_candidate_is_written_down_and_accuracy_says_over_what(workshop: Path, tmp_path: Path) -> None:
    """DAPO's dropped groups and PBSD's y⁺, each with its prompt."""
    scorer = {"name": "majority"}
    run = train(workshop, tmp_path / "dapo", method="dapo", scorer=scorer, k=3, steps=1)
    groups, (step,) = lines(run / "groups.jsonl"), lines(run / "metrics.jsonl")
    ledger = json.loads((run / "ledger.json").read_text())
    assert sum(len(g["responses"]) for g in groups) == ledger["student_samples"]
    dropped = [g for g in groups if g.get("dropped")]
    assert len(groups) - len(dropped) == 4
    assert dropped
    assert all(r["weight"] is None for g in dropped for r in g["responses"])
    grades = [r["grade"] for g in groups for r in g["responses"]]
    assert step["accuracy"] == pytest.approx(sum(grades) / len(grades))
    assert step["graded"] == 1.0
    assert "accuracy_trained" in step

    run = train(workshop, tmp_path / "pbsd", method="pbsd", k=2, steps=1)
    for group in lines(run / "groups.jsonl"):
        assert len(group["responses"]) == len(group["teacher_responses"]) == 2
        assert "The answer is" in group["context"]
        assert "The answer is" not in group["prompt"]
        assert {r["weight"] for r in group["teacher_responses"]} <= {1.0, None}


def test_the_resolved_config_names_every_default(workshop: Path, tmp_path: Path) -> None:
    mix = {"name": "mix", "scorers": ["rule", "majority"], "weights": [1, 1]}
    stage = {"method": "grpo", "scorer": mix, "k": 2, "max_skipped": 1.0}
    run = train(workshop, tmp_path / "run", **stage)
    found = yaml.safe_load((run / "config.yaml").read_text())
    (written,) = found["stages"]
    assert written["method"]["name"] == "grpo"
    assert (written["method"]["clip_low"], written["method"]["kl"]) == (0.2, "k3")
    assert written["scorer"]["mix"] == "reward"
    assert written["scorer"]["scorers"] == [{"name": "rule", "partial": 0.0, "reward": "task"}, {"name": "majority"}]
    assert written["sampling"]["max_tokens"] == 6
    assert found["teacher"]["partial"] is False
    assert found["rollout"]["name"] == "hf"
    assert found["rollout"]["rows"] is None  # what memory has room for
    assert (found["teacher_sampling"]["temperature"], found["teacher_sampling"]["max_tokens"]) == (0.0, 2048)
    recipe.train(str(run / "config.yaml"))  # is the same run
    train(workshop, tmp_path / "run", **stage)
    with pytest.raises(UserError, match="other settings"):
        train(workshop, tmp_path / "run", **{**stage, "method": {"name": "grpo", "clip_low": 0.1}})


def test_lora_dropout_is_refused(workshop: Path, tmp_path: Path) -> None:
    values = {
        "run": str(tmp_path / "run"),
        "student": {"model": str(workshop / "model"), "device": "cpu", "lora": {"dropout": 0.1}},
        "task": str(workshop / "task.yaml"),
        "stages": [{"name": "g", "method": "grpo", "scorer": "rule", "split": "train"}],
    }
    with pytest.raises(UserError, match=r"student\.lora\.dropout=0\.1: .*leave it 0"):
        recipe.check_run(run_config.read(values, "test"))
