"""Runs from end to end on random students: what is written, what resumes, what is refused."""

from __future__ import annotations

import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

import apart
from mmpu.core import UserError
from mmpu.recipes import runs
from mmpu.recipes import training as recipe
from tiny import picture, save

pytestmark = [pytest.mark.numerical, pytest.mark.slow]

ROWS = 24


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user would have it: students, two tasks, recorded answers of a teacher."""
    folder = tmp_path_factory.mktemp("workshop")
    for family in ("qwen2", "qwen2_5_vl"):
        save(family, folder / family)
    (folder / "tasks").mkdir()
    for name, image in (("words", None), ("pictures", picture())):
        rows = [{"id": f"r{i}", "q": f"yes or no {i}?", "a": ("yes", "no")[i % 2], "image": image} for i in range(ROWS)]
        (folder / "tasks" / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        anchors = [{"id": r["id"], "output": f"The answer is {r['a']}."} for r in rows]
        (folder / "tasks" / f"{name}.anchors.jsonl").write_text("".join(json.dumps(a) + "\n" for a in anchors))
        parts: list[Any] = [{"image": "{{ image }}"}] if image else []
        task = {
            "source": f"{name}.jsonl",
            "id": "{{ id }}",
            "prompt": [{"user": [*parts, "{{ q }}"]}],
            "reference": "The answer is {{ a }}.",
            "answer": "{{ a }}",
            "grader": "final_answer",
            "splits": {"train": {}, "test": {"part_of": "train"}},
            "sampling": {"max_tokens": 8},
        }
        (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return folder


def config(workshop: Path, run: Path, task: str = "words", student: str = "qwen2", **changes: Any) -> Path:
    """A two-stage config with the rule scorer, since a random student cannot grade."""
    optim = {"lr": 1e-3}
    values = {
        "run": str(run),
        "student": {"model": str(workshop / student), "device": "cpu"},
        "task": str(workshop / "tasks" / f"{task}.yaml"),
        "teacher": {"name": "replay", "path": f"{task}.anchors.jsonl"},
        "stages": [
            {"name": "sft", "method": "sft", "split": "train[:16]", "prompts_per_step": 4, "epochs": 1, "optim": optim},
            {
                "name": "ldl",
                "method": {"name": "ldl_grpo", "form": "mean"},
                "scorer": "rule",
                "split": "train[8:]",
                "k": 3,
                "prompts_per_step": 4,
                "steps": 6,
                "checkpoint_every": 2,
                "preflight": {"prompts": 8, "min_auc": 0.0},
                "optim": optim,
            },
        ],
    } | changes
    path = run.parent / f"{run.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the config as it is, for tests that only read it."""
    return recipe.train(str(config(workshop, tmp_path_factory.mktemp("whole") / "run")))


@pytest.mark.parametrize(("task", "student"), [("words", "qwen2"), ("pictures", "qwen2_5_vl")])
def test_a_run_from_end_to_end(
    workshop: Path, tmp_path: Path, task: str, student: str, request: pytest.FixtureRequest
) -> None:
    words = task == "words"
    run = (
        request.getfixturevalue("whole")
        if words
        else recipe.train(str(config(workshop, tmp_path / "run", task, student)))
    )
    assert (run / "0-sft/student.json").exists()
    assert (run / "1-ldl/model/model.safetensors").exists()
    assert not same(weights(run / "0-sft/model"), weights(run / "1-ldl/model"))
    assert not list(run.glob("*/step-*"))

    metrics = lines(run / "metrics.jsonl")
    steps = [(m["stage"], m["step"]) for m in metrics if "loss" in m]
    assert steps == [("sft", s) for s in range(4)] + [("ldl", s) for s in range(6)]
    last = metrics[-1]
    for name in ("kl_target", "entropy_d", "entropy_q", "max_q", "kl_ref", "length", "flat_groups", "accuracy"):
        assert name in last, name

    groups = lines(run / "groups.jsonl")
    assert len(groups) == 6 * 4
    for group in groups:
        assert len(group["responses"]) == 3
        assert sum(r["weight"] or 0 for r in group["responses"]) == pytest.approx(1, abs=1e-6)

    ledger = json.loads((run / "ledger.json").read_text())
    asked = {g["id"] for g in groups} | {f"r{i}" for i in range(16)}
    assert ledger["teacher_calls"] == len(asked | {f"r{i}" for i in range(8, 16)})
    assert ledger["student_samples"] == 6 * 4 * 3 + 8 * 3  # the pre-flight samples once, its prompts being 8
    assert "local_eval_calls" not in ledger  # the rule is no model

    resolved = run / "config.yaml"  # is runnable, and being done, changes nothing
    before = weights(run / "1-ldl/model")
    recipe.train(str(resolved))
    assert same(before, weights(run / "1-ldl/model"))


def test_anchors_are_asked_once_over_runs_and_restarts(workshop: Path, whole: Path) -> None:
    run = recipe.train(str(config(workshop, whole.with_name("another"), seed=1)))
    assert "teacher_calls" not in json.loads((run / "ledger.json").read_text())


def test_lora_runs_save_adapters_that_chain(workshop: Path, tmp_path: Path) -> None:
    run = recipe.train(str(config(workshop, tmp_path / "run")), ["student.lora={r: 4, alpha: 8}"])
    entry = json.loads((run / "1-ldl/student.json").read_text())
    assert entry["adapters"] == ["../0-sft/adapter", "../1-ldl/adapter"]
    assert (run / "1-ldl/adapter/adapter_model.safetensors").stat().st_size < 200_000
    runs.export(str(run), tmp_path / "merged")
    merged, base = weights(tmp_path / "merged"), weights(workshop / "qwen2")
    assert merged.keys() == base.keys()
    assert not same(merged, base)


# -------------------------------------------------------------------------------------------------------- crashes


def test_killed_in_mid_stage_it_ends_where_the_uninterrupted_run_ends(
    workshop: Path, tmp_path: Path, whole: Path
) -> None:
    path = config(workshop, tmp_path / "b" / "run")
    process = apart.start(apart.MMPU, ["train", str(path)], tmp_path / "said")
    while not list((tmp_path / "b/run/1-ldl").glob("step-*")):
        assert process.is_alive(), f"it ended before it could be killed: {(tmp_path / 'said').read_text()[-2000:]}"
        time.sleep(0.002)
    process.kill()
    process.join()
    assert not (tmp_path / "b/run/1-ldl/student.json").exists()
    resumed = recipe.train(str(path))
    assert same(weights(whole / "1-ldl/model"), weights(resumed / "1-ldl/model"))
    assert [(m["stage"], m["step"]) for m in lines(resumed / "metrics.jsonl") if "loss" in m] == [
        (m["stage"], m["step"]) for m in lines(whole / "metrics.jsonl") if "loss" in m
    ]
    assert [g["id"] for g in lines(resumed / "groups.jsonl")] == [g["id"] for g in lines(whole / "groups.jsonl")]


def test_a_full_disk_in_mid_checkpoint_leaves_the_one_before(workshop: Path, tmp_path: Path) -> None:
    """The second checkpoint meets a file size limit, as a full disk would stop it."""
    path = config(workshop, tmp_path / "run")
    limit = (workshop / "qwen2/model.safetensors").stat().st_size // 2

    script = (
        "import resource, signal, sys\n"
        "from mmpu.recipes import training as recipe\n"
        "from mmpu.train import checkpoint\n"
        "from mmpu.core import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "whole = checkpoint.save\n"
        "def save(*args, **kw):\n"
        "    if args[1] == 4:\n"
        f"        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "    return whole(*args, **kw)\n"
        "checkpoint.save = save\n"
        "try:\n"
        "    recipe.train(sys.argv[1])\n"
        "except UserError as error:\n"
        "    print(error); sys.exit(2)\n"
    )
    status = apart.run(script, [str(path)], tmp_path / "said")
    said = (tmp_path / "said").read_text()
    assert status == 2, said[-2000:]
    assert "Step 2 is intact" in said
    assert sorted(p.name for p in (tmp_path / "run/1-ldl").iterdir()) == ["left_out.json", "step-00000002"]
    recipe.train(str(path))
    assert (tmp_path / "run/1-ldl/student.json").exists()


def test_two_processes_train_what_one_trains(workshop: Path, tmp_path: Path) -> None:
    """Gloo, prompts shared out, denominators over both: equal weights up to float32 summation order. Both leave out
    the prompt whose answer does not fit."""
    anchors = lines(workshop / "tasks/words.anchors.jsonl")
    anchors[9]["output"] = "yes no " * 1500
    (tmp_path / "anchors.jsonl").write_text("".join(json.dumps(a) + "\n" for a in anchors))
    teacher = {"name": "replay", "path": str(tmp_path / "anchors.jsonl")}
    without = [f"stages.{name}.leave_out=[long]" for name in ("sft", "ldl")]
    alone = recipe.train(str(config(workshop, tmp_path / "alone" / "run", teacher=teacher)), without)
    path = config(workshop, tmp_path / "pair" / "run", teacher=teacher)
    statuses = apart.together(apart.MMPU, ["train", str(path), *without], tmp_path / "said")
    assert statuses == [0, 0], "".join(each.read_text()[-3000:] for each in tmp_path.glob("said.*"))
    pair = tmp_path / "pair/run"
    a, b = weights(alone / "0-sft/model"), weights(pair / "0-sft/model")
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-5
    seen = lines(pair / "groups.jsonl") + lines(pair / "groups.1.jsonl")
    assert sorted(g["id"] for g in seen) == sorted(g["id"] for g in lines(alone / "groups.jsonl"))
    one, both = (json.loads((run / "ledger.json").read_text()) for run in (alone, pair))
    assert anchors[9]["id"] not in {g["id"] for g in seen}
    assert both["teacher_calls"] == one["teacher_calls"] == ROWS - 1, "of what is left out nothing is asked"
    assert both["student_samples"] == one["student_samples"] + 8 * 3, "each process makes the pre-flight's"


def test_half_precision_keeps_whole_weights(workshop: Path, tmp_path: Path) -> None:
    path = config(workshop, tmp_path / "run", "pictures", "qwen2_5_vl")
    run = recipe.train(str(path), ["student.autocast=bfloat16", "student.gradient_checkpointing=true"])
    assert {str(t.dtype) for t in weights(run / "1-ldl/model").values()} == {"torch.float32"}
    whole = recipe.train(str(path), [f"run={tmp_path / 'whole'}"])
    (half, exact) = (
        [m["loss"] for m in lines(r / "metrics.jsonl") if m["stage"] == "sft" and "loss" in m] for r in (run, whole)
    )
    assert half != exact
    assert half == pytest.approx(exact, rel=0.02)


POISON = """
from dataclasses import dataclass, replace
from mmpu.methods.sft import SFT


@dataclass(frozen=True)
class Poison(SFT):
    def supervise(self, group):
        bad = group.sample.id == "r3"
        return [replace(row, weight=float("inf") if bad else 1.0) for row in super().supervise(group)]

    def loss(self, quantities, batch):
        loss, metrics = super().loss(quantities, batch)
        return loss * batch.weight_B.mean(), metrics
"""


def test_an_update_that_is_not_finite_changes_nothing_and_names_the_sample(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "poison.py").write_text(POISON)
    monkeypatch.setenv("MMPU_PATH", str(tmp_path))
    stage = {"name": "s", "method": "poison", "split": "train[:8]", "prompts_per_step": 2, "optim": {"lr": 1e-3}}
    run = recipe.train(str(config(workshop, tmp_path / "run", stages=[stage])))
    metrics = lines(run / "metrics.jsonl")
    assert [m.get("refused", 0.0) for m in metrics].count(1.0) == 1
    (refused,) = lines(run / "refused.jsonl")
    (step,) = [m["step"] for m in metrics if m.get("refused")]
    assert (refused["id"], refused["step"], refused["text"]) == ("r3", step, "The answer is no.")
    assert all(tensor.isfinite().all() for tensor in weights(run / "0-s/model").values())

    often = [stage | {"epochs": 8, "max_refused": 3}]
    with pytest.raises(UserError, match=r"3 updates had a non-finite gradient.*refused\.jsonl"):
        recipe.train(str(config(workshop, tmp_path / "often", stages=often)))
    assert [r["id"] for r in lines(tmp_path / "often" / "refused.jsonl")] == ["r3"] * 3


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.ldl.k=1"], "k=1, and a listwise method"),
        (["stages.ldl.scorer=null"], "needs scores"),
        (["stages.sft.scorer=rule"], "uses no scores"),
        (["teacher=null"], "needs anchors"),
        (["stages.ldl.method.tau=1"], "unknown key 'tau'; did you mean 'label_tau'"),
        (["stages.ldl.method=ldl_grop"], "no method 'ldl_grop'.*did you mean 'ldl_grpo'"),
        (["stages.ldl.optim.lr=fast"], "'fast' will not do"),
        (["student.model=tiny-txt"], "no model 'tiny-txt'"),
        (["stages.sft.split=train[100:]"], "holds no sample"),
        (["task=wrods"], "no task 'wrods'"),
        (["student.dtype=float16"], "float16 holds nothing below 6e-8"),
        (["student.dtype=bfloat16"], "lose most updates to rounding.*autocast: bfloat16"),
        (["student.dtype=bfloat16", "student.autocast=bfloat16"], "not from bfloat16; set it or student.dtype"),
        (["stages.ldl.method.form=ratio", "stages.ldl.sampling.top_p=0.9"], "needs plain sampling"),
        (["rollout={name: replay, path: x}"], "replay does not sample the student's own tokens"),
        (["rollout={name: vllm_server, adress: x}"], "unknown key 'adress'"),
        pytest.param(
            ["rollout=vllm"],
            r"pip install 'mmpu\[vllm\]'",
            marks=pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed"),
        ),
    ],
)
def test_mistakes_are_refused_before_training(
    workshop: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        recipe.train(str(config(workshop, tmp_path / "run")), overrides)
    assert not list((tmp_path / "run").glob("*/step-*"))


@pytest.mark.parametrize("size", [4, 1])
def test_a_prompt_that_the_teacher_fails_at_is_left_out_and_counted(workshop: Path, tmp_path: Path, size: int) -> None:
    recorded = (workshop / "tasks/words.anchors.jsonl").read_text().splitlines()
    missing = {"r3", "r9"}
    kept = [line for line in recorded if json.loads(line)["id"] not in missing]
    (tmp_path / "short.jsonl").write_text("\n".join(kept) + "\n")
    changes = {"prompts_per_step": size, "steps": 16 // size, "max_skipped": 1.0}
    overrides = [f"stages.{s}.{key}={value}" for s in ("sft", "ldl") for key, value in changes.items()]
    teacher = {"name": "replay", "path": str(tmp_path / "short.jsonl"), "partial": True}
    run = recipe.train(str(config(workshop, tmp_path / "run", teacher=teacher)), overrides)
    steps = [m for m in lines(run / "metrics.jsonl") if "unanchored_groups" in m]
    left_out = {s: sum(m["unanchored_groups"] * size for m in steps if m["stage"] == s) for s in ("sft", "ldl")}
    assert left_out == {"sft": 2, "ldl": 1}, "r3 and r9 of the first 16, r9 of the last 16"
    assert missing.isdisjoint(g["id"] for g in lines(run / "groups.jsonl"))
    ledger = json.loads((run / "ledger.json").read_text())
    assert ledger["teacher_calls"] - ledger["teacher_failures"] == ROWS - len(missing), "each asked once"


def test_a_teacher_file_that_lacks_a_prompt_says_which(workshop: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text((workshop / "tasks/words.anchors.jsonl").read_text().split("\n")[0] + "\n")
    teacher = {"name": "replay", "path": str(short)}
    with pytest.raises(UserError, match=r"no answer for 15 of the 16 prompts of train\[:16\], first 'r1'; complete"):
        recipe.train(str(config(workshop, tmp_path / "run", teacher=teacher)))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with pytest.raises(UserError, match=r"\d of 4 prompts unanswered.*no answer for sample 'r\d+'"):
        recipe.train(str(config(workshop, tmp_path / "run", teacher=teacher | {"partial": True})))


def test_an_evaluator_that_cannot_tell_is_refused(workshop: Path, tmp_path: Path) -> None:
    """A random student as its own judge, the real scorer, the default bound."""
    path = config(workshop, tmp_path / "run")
    scorer = "stages.ldl.scorer={name: self_eval, mode: expected, min_mass: 0.0}"
    with pytest.raises(UserError, match=r"pre-flight: .* AUC .* below 0.75"):
        recipe.train(str(path), [scorer, "stages.ldl.preflight.min_auc=0.75"])
    trained = (tmp_path / "run/0-sft/student.json").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"other settings \(stages\.sft\.optim\.lr: 0\.001 → 0\.002\)"):
        recipe.train(str(path), ["stages.sft.optim.lr=0.002"])
    recipe.train(str(path), ["stages.ldl.steps=1"])  # by the rule: the stage had not begun
    assert (tmp_path / "run/0-sft/student.json").stat().st_mtime_ns == trained, "stage I is not trained again"
    assert (tmp_path / "run/before/1/1-ldl").exists()


def test_anchors_that_are_all_alike_are_refused_before_stage_one(workshop: Path, tmp_path: Path) -> None:
    same = [{"id": f"r{i}", "output": "The answer is 4."} for i in range(ROWS)]
    (tmp_path / "same.jsonl").write_text("".join(json.dumps(row) + "\n" for row in same))
    path = config(workshop, tmp_path / "run", teacher={"name": "replay", "path": str(tmp_path / "same.jsonl")})
    with pytest.raises(UserError, match=r"stage 'ldl': pre-flight: the teacher says the same to all of the first 8"):
        recipe.train(str(path), ["stages.ldl.scorer={name: self_eval, mode: expected, min_mass: 0.0}"])
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_a_student_that_can_grade_in_no_way_is_refused(workshop: Path, tmp_path: Path) -> None:
    """A random student, and what would help in place of a traceback."""
    path = config(workshop, tmp_path / "run")
    overrides = ["stages.ldl.scorer=self_eval", "stages.ldl.preflight={prompts: 8, min_auc: 0.9, graded: 2}"]
    with pytest.raises(UserError, match=r"pre-flight: of \d\d ways .* none tells right from wrong.*mmpu evaluator"):
        recipe.train(str(path), overrides)
    assert not (tmp_path / "run/1-ldl/evaluator.json").exists()


def test_ways_to_grade_that_weigh_texts_train(workshop: Path, tmp_path: Path) -> None:
    """What they will weigh is rehearsed too, and then scored in [0, 1]."""
    parts = "[{weight: 1.0, mode: recall}, {weight: 2.0, mode: likelihood}]"
    scorer = f"stages.ldl.scorer={{name: self_eval, mode: average, parts: {parts}}}"
    overrides = [scorer, "stages.ldl.steps=1", "stages.sft.epochs=0.25", "stages.ldl.preflight={prompts: 0}"]
    run = recipe.train(str(config(workshop, tmp_path / "run")), overrides)
    (step,) = [line for line in lines(run / "metrics.jsonl") if line["stage"] == "ldl"]
    assert 0 < step["score"] < 1


def test_a_run_folder_of_other_settings_is_not_touched(workshop: Path, tmp_path: Path) -> None:
    path = config(workshop, tmp_path / "run")
    recipe.train(str(path), ["stages.ldl.steps=1"])
    with pytest.raises(UserError, match=r"other settings \(stages\.ldl\.steps: 1 → 2\)"):
        recipe.train(str(path), ["stages.ldl.steps=2"])


def test_a_student_that_reads_no_images_is_refused(workshop: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has an image"):
        recipe.train(str(config(workshop, tmp_path / "run", "pictures", "qwen2")))
