"""Whole stages on a GPU that is not there (`pretended.py`): what would mix devices on CUDA raises here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from mmpu.core import Failed, Sample, Sampling, Task
from mmpu.engines.hf import HF
from mmpu.engines.reference import Reference
from mmpu.learning import Method
from mmpu.methods.dapo import DAPO
from mmpu.methods.dpo import DPO
from mmpu.methods.grpo import GRPO
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.methods.lopd import LOPD
from mmpu.methods.opsd import OPSD
from mmpu.methods.pbsd import PBSD
from mmpu.methods.ppo import PPO
from mmpu.methods.sdft import SDFT
from mmpu.methods.sft import SFT
from mmpu.methods.srpo import SRPO
from mmpu.scorers.self_eval import SelfEval
from mmpu.specs import Spec
from mmpu.store import Ledger
from mmpu.student import load_student
from mmpu.student.lora import Lora
from mmpu.student.parts import checkpoint_activations
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig
from mmpu.train import checkpoint, loop
from mmpu.train.optim import Optim
from mmpu.train.preflight import Preflight
from mmpu.train.record import Record
from mmpu.train.rollout import Rollout
from mmpu.train.shadow import Shadow
from mmpu.train.stage import Stage, StageConfig
from pretended import PLACE, Marks, gpu
from tiny import samples, save, student

pytestmark = pytest.mark.numerical

METHODS: dict[str, Method] = {
    "sft": SFT(),
    "dpo": DPO(),
    "grpo": GRPO(kl="full", beta=0.3),
    "dapo": DAPO(batches=0),
    "ppo": PPO(),
    "ldl": LDLGRPO("ratio", beta=0.1),
    "pbsd": PBSD(),
    "opsd": OPSD(beta=0.3, top_k=30, clip=0.5, clip_what="token", max_ratio=2.0),
    "sdft": SDFT(skip_first=1),
    "srpo": SRPO(top_k=30),
    "lopd": LOPD(model="another"),
}


class Two(Task):
    """Two prompts of a family, one with a picture where it sees."""

    name = "two"

    def __init__(self, family: str) -> None:
        first, _, last = samples(family)
        self.all = [replace(s, reference=f"It is {s.id}.") for s in (first, last)]

    def samples(self, split: str) -> list[Sample]:
        return self.all

    def grade(self, sample: Sample, text: str) -> float | None:
        return float(sample.answer in text) if sample.answer else None


class Held(dict[str, Student]):
    """Students over there, and what lies there."""

    def __init__(self) -> None:
        super().__init__()
        self.marks = Marks()

    def __missing__(self, family: str) -> Student:
        self[family] = student(family.removesuffix(" again")).to(PLACE)
        return self[family]


@pytest.fixture(scope="module")
def held() -> Held:
    return Held()


def stage(folder: Path, model: Student, family: str, method: Method, other: Student | None = None) -> Stage:
    task, scored = Two(family), method.needs & {"scores", "anchor_score"}
    rollout = Rollout(
        method,
        SelfEval(HF(model, "frozen"), "expected", min_mass=0.0) if scored else None,
        HF(model),
        Reference(),
        2,
        Sampling(max_tokens=3, temperature=1.3, top_p=0.9),
        Ledger(folder / "ledger.json"),
        Shadow(method.shadow, model, other) if method.shadow else None,
    )
    config = StageConfig(
        "only",
        Spec[Method].read("sft", "method", Method),
        "train",
        prompts_per_step=2,
        steps=1,
        checkpoint_every=1,
        preflight=Preflight(prompts=0),
        optim=Optim(lr=1e-3),
        max_skipped=1.0,
    )
    return Stage(config, folder, task.all, task, rollout, model, Accelerator(cpu=True), 0)


def run(one: Stage) -> None:
    one.folder.mkdir(exist_ok=True)
    loop.run(one, Record(one.folder, one.accelerator, one.rollout.ledger, one.task))
    assert {p.device for p in one.student.parameters()} == {PLACE}


@pytest.mark.parametrize("name", METHODS)
def test_a_step_of_every_method(name: str, held: Held, tmp_path: Path) -> None:
    """One prompt with a picture, one without."""
    family, method = "qwen2_5_vl", METHODS[name]
    with gpu(held.marks):
        model = held[family]
        model.start_stage(True, "value" in method.needs)
        external = method.shadow is not None and method.shadow.kind == "external"
        run(stage(tmp_path, model, family, method, held[f"{family} again"] if external else None))


def test_a_step_of_text_alone_under_autocast_waits_three_times_outside_generation(tmp_path: Path) -> None:
    """For its scores, the norm of its gradient and its metrics. Torch itself waits twice for the sparse gradient of
    embeddings that have a padding token."""
    with gpu() as marks:
        model = student("qwen2", autocast="bfloat16").to(PLACE)
        model.start_stage(True)
        marks.waits.clear()
        run(stage(tmp_path, model, "qwen2", METHODS["ldl"]))
    loading = ("upload", "download")  # what is sent there, and the weights that are compared below
    waits = {w: n for w, n in marks.waits.items() if not w.startswith("generating") and not w.endswith(loading)}
    assert sum(n for w, n in waits.items() if not w.endswith(" index")) <= 3, waits
    assert sum(waits.values()) <= 5, waits


def test_a_stage_of_bfloat16_adapters_from_preflight_to_resumption(tmp_path: Path) -> None:
    family, name = "qwen3_vl", "ppo"
    ends: list[dict[str, torch.Tensor]] = []
    with gpu():
        for _ in range(2):  # the second time from the checkpoint of the first
            model = student(family, Lora(r=4, alpha=8), dtype="bfloat16").to(PLACE)
            checkpoint_activations(model.base)
            model.start_stage(True, "value" in METHODS[name].needs)
            one = stage(tmp_path, model, family, METHODS[name])
            config = replace(one.config, steps=2, preflight=Preflight(prompts=2, min_auc=0.0), kl_every=1)
            run(replace(one, config=config))
            ends.append({n: p.detach().cpu() for n, p in model.named_parameters() if p.requires_grad})
        model.save(tmp_path / "saved")
    assert checkpoint.steps(tmp_path) == [1]
    first, second = ends
    assert all((first[n] == second[n]).all() for n in first)
    assert any((first[n] != load_file(tmp_path / "step-00000001/weights.safetensors")[n]).any() for n in first)


def test_a_student_is_loaded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPU_CACHE", str(tmp_path / "cache"))
    with gpu():
        model = load_student(StudentConfig(str(save("llava", tmp_path / "llava")), device="cuda"))
        assert model.device == PLACE
        assert (model.sharing, model.sparing, model.prefixing, model.unsampled) == (True, True, True, "")
        assert (tmp_path / "cache/checked.json").exists(), "it was not checked"


@pytest.mark.parametrize("family", ["qwen2_window", "opt", "llava", "gemma3", "qwen3_vl"])
def test_an_engine_answers_chooses_and_weighs(family: str) -> None:
    with gpu():
        engine, asked = HF(student(family).to(PLACE)), samples(family)
        drawn = engine.generate(asked, 2, Sampling(max_tokens=2, stop=("yes",), min_p=0.01))
        assert not [r for r in drawn if isinstance(r, Failed)]
        engine.choose(asked, ["yes", "no"])
        found = engine.likelihoods(asked, [r[0] for r in drawn if not isinstance(r, Failed)])
        assert not [each for each in found if isinstance(each, Failed)]


def test_both_places_in_one_operation_are_refused() -> None:
    """What the other tests rest on."""
    with gpu() as marks:
        there, here = torch.ones(2, 3, device="cuda", requires_grad=True), torch.ones(2, 3)
        for mix in (lambda: there + here, lambda: there[torch.tensor([0])], lambda: torch.cat([here, there])):
            with pytest.raises(RuntimeError, match="same device"):
                mix()
        with pytest.raises(TypeError, match="numpy"):
            there.detach().numpy()
        assert not marks.waits
        ((there * 2).exp() @ here.T.to(there.device)).sum().backward()
        assert there.grad is not None
        assert there.grad.device == there.detach().device == (there + torch.tensor(2.0)).device == PLACE
        assert there.grad.cpu().device == here.device
        assert float(there.grad[0, 0]) > 0
        assert marks.waits.total() == 3
