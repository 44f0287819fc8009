"""Several processes train what one trains: DDP and FSDP2 over two gloo processes, launched with the example config."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from transformers import Qwen2ForCausalLM

import apart
from conftest import ROOT
from mmpu.core import Sampling, UserError
from mmpu.engines.hf import HF
from mmpu.learning import Method
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.methods.ppo import PPO
from mmpu.methods.srpo import SRPO
from mmpu.recipes import runs
from mmpu.recipes import training as recipe
from mmpu.student.lora import Lora
from mmpu.student.parts import checkpoint_activations
from mmpu.student.student_config import StudentConfig
from mmpu.train import sharding
from mmpu.train.optim import Optim
from mmpu.train.update import Updater
from test_training import config, lines, same, weights, whole, workshop
from test_update_methods import TEMPERATURE, prepared
from tiny import samples

pytestmark = [pytest.mark.numerical, pytest.mark.slow]

__all__ = ["whole", "workshop"]

OPTIM = Optim(lr=1e-3, schedule="constant", warmup=0.0, clip=0.05, weight_decay=0.1, tokens_per_pass=100)
"""Passes of a response or two, so that processes make unequal numbers of them; the norm is clipped."""
CASES: dict[str, tuple[str, Lora | None, Method]] = {
    "text": ("qwen2", None, LDLGRPO(form="ratio", kl="k2", beta=0.1)),
    "image": ("qwen2_5_vl", None, LDLGRPO(form="mean")),
    "lora": ("qwen2_5_vl", Lora(r=4, alpha=8), LDLGRPO(form="mean", kl="k2", beta=0.1)),
    "value": ("qwen2", None, PPO()),
    "teacher": ("qwen2", None, SRPO()),
}


def update(case: str, rank: int, world: int) -> tuple[dict[str, torch.Tensor], list[dict[str, float]], float]:
    """The weights after three updates by all processes, this one's diagnostics, and its share of AdamW's moments; in
    the second update all but the first process have no rows."""
    family, lora, method = CASES[case]
    optim = dataclasses.replace(OPTIM, updates=2 if case == "value" else 1)
    accelerator = Accelerator(cpu=True)
    model, shadow, groups = prepared(family, method, lora)
    if case == "image":
        model.model.requires_grad_(True)  # the tower too, which groups without pictures do not reach
    if case == "value":
        checkpoint_activations(model.model)
    sharding.admit(accelerator, model.config, "hf")
    wrapped, optimizer = sharding.prepare(accelerator, model, optim.build(model))
    updater = Updater(model, wrapped, optimizer, method, optim, accelerator, shadow, TEMPERATURE)
    metrics: list[dict[str, float]] = []
    for step, everything in enumerate((groups, groups[:1], groups)):
        metrics.append(updater(everything[rank::world], step, 3))
        if shadow is not None:
            shadow.follow(step + 1)
    moments = [of["exp_avg"] for of in optimizer.state_dict()["state"].values()]
    here = sum(m.to_local().numel() if isinstance(m, DTensor) else m.numel() for m in moments)
    share = here / sum(m.numel() for m in moments)
    sharding.release(accelerator, wrapped, optimizer)
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, metrics, share


def launch(folder: Path, *runs: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "examples/fsdp2.yaml")]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with (folder / "stderr").open("wb") as errors:
        return subprocess.Popen(
            [*command, str(ROOT / "tests/sharded.py"), str(folder), *map(str, runs)],
            env=os.environ | {"PYTHONPATH": paths},
            stderr=errors,
        )


def kill(process: subprocess.Popen[bytes], folder: Path) -> None:
    process.kill()
    process.wait()
    for file in folder.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


def wait(process: subprocess.Popen[bytes], folder: Path, ready: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 900  # of a machine on which it takes 15 at rest
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            kill(process, folder)
            pytest.fail((folder / "stderr").read_text()[-5000:] or "the processes wait for each other")
        time.sleep(0.002)


@pytest.fixture(scope="module")
def trained(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Updates of every case, a run from end to end, and one that is killed behind its first checkpoint."""
    folder = tmp_path_factory.mktemp("pair") / "updates"
    folder.mkdir()
    paths = [config(workshop, folder / name / "run") for name in ("whole", "killed")]
    process = launch(folder, *paths)
    wait(process, folder, lambda: list(folder.glob("killed/run/1-ldl/step-*")))
    kill(process, folder)
    return folder


@functools.cache
def by_one(case: str) -> tuple[dict[str, torch.Tensor], list[dict[str, float]]]:
    return update(case, 0, 1)[:2]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.MULTI_CPU])
def test_an_update_by_two_processes_is_that_of_one(trained: Path, case: str, kind: DistributedType) -> None:
    """Unequal numbers of passes, a process without rows, one without images; the gradient's norm is clipped.

    All is float64, so that sums in another order differ by 1e-14; AdamW makes more of it where a gradient is near zero.
    """
    alone, metrics = by_one(case)
    assert all(m["grad_norm"] > OPTIM.clip for m in metrics)
    for rank in (0, 1):
        found = load_file(trained / f"{case}.{kind.value}.{rank}.safetensors")
        assert found.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-11, msg=f"{name} of process {rank}")


def test_a_run_in_shards_ends_as_one_process_does_and_loads_anywhere(trained: Path, whole: Path) -> None:
    run = trained / "whole/run"
    a, b = weights(whole / "0-sft/model"), weights(run / "0-sft/model")
    assert a.keys() == b.keys(), "tied weights are saved once"
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-5
    seen = lines(run / "groups.jsonl") + lines(run / "groups.1.jsonl")
    assert sorted(g["id"] for g in seen) == sorted(g["id"] for g in lines(whole / "groups.jsonl"))
    student = runs.trained_student(run)
    (response,) = HF(student).generate(samples("qwen2")[:1], 1, Sampling(max_tokens=4))[0]
    assert response.tokens
    loaded = Qwen2ForCausalLM.from_pretrained(run / "1-ldl/model")
    assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), student.model.parameters(), strict=True))


def test_killed_in_mid_stage_a_run_in_shards_resumes_exactly(trained: Path, workshop: Path, tmp_path: Path) -> None:
    whole, run = trained / "whole/run", trained / "killed/run"
    (checkpoint,) = (run / "1-ldl").glob("step-*")
    moments = torch.load(checkpoint / "optimizer.pt")["state"]
    shapes = [list(tensor.shape) for tensor in load_file(checkpoint / "weights.safetensors").values()]
    assert sorted(list(of["exp_avg"].shape) for of in moments.values()) == sorted(shapes), "whole, for any process"
    alone = tmp_path / "alone"  # moved, to go on in one process
    shutil.copytree(run, alone)
    launched = {k: v for k, v in json.loads((trained / "0.json").read_text()).items() if "ELASTIC" not in k}
    again = [str(tmp_path), str(trained / "killed/run.yaml")]
    statuses = apart.together("import sharded; sharded.main()", again, tmp_path / "said", **launched)
    assert statuses == [0, 0], "".join(each.read_text()[-3000:] for each in tmp_path.glob("said.*"))
    assert same(weights(whole / "1-ldl/model"), weights(run / "1-ldl/model"))
    for a, b in zip(lines(whole / "metrics.jsonl"), lines(run / "metrics.jsonl"), strict=True):
        assert {k: v for k, v in a.items() if "seconds" not in k} == {k: v for k, v in b.items() if "seconds" not in k}

    recipe.train(str(config(workshop, alone)))
    steps = [(row["stage"], row["step"]) for row in lines(whole / "metrics.jsonl")]
    assert [(row["stage"], row["step"]) for row in lines(alone / "metrics.jsonl")] == steps
    a, b = weights(alone / "1-ldl/model"), weights(whole / "1-ldl/model")
    assert max(float((a[k] - b[k]).abs().max()) for k in a) < 1e-5, "one process goes on where two were killed"


# ------------------------------------------------------------------------------------------------------- refusals


def admitted(
    monkeypatch: pytest.MonkeyPatch, kind: DistributedType, student: StudentConfig, rollout: str = "hf", **plugin: Any
) -> Any:
    accelerator = Accelerator(cpu=True)
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "False")  # to be put back
    for state in (PartialState._shared_state, AcceleratorState._shared_state):
        monkeypatch.setitem(state, "distributed_type", kind)
    made = FullyShardedDataParallelPlugin(**({"fsdp_version": 2} | plugin))
    monkeypatch.setitem(AcceleratorState._shared_state, "fsdp_plugin", made)
    sharding.admit(accelerator, student, rollout)
    return made


TINY = StudentConfig("tiny-text")


def test_every_process_loads_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = admitted(monkeypatch, DistributedType.FSDP, TINY, cpu_ram_efficient_loading=True)
    assert not plugin.cpu_ram_efficient_loading
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "False"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": DistributedType.DEEPSPEED}, r"set to DEEPSPEED.*equal numbers of passes.*`fsdp_version: 2`"),
        ({"fsdp_version": 1}, r"first version.*`fsdp_version: 2`"),
        ({"mixed_precision_policy": "bf16"}, r"mixed_precision .*`student\.autocast: bfloat16`"),
        ({"cpu_offload": True}, r"fsdp_offload_params .*false"),
        ({"activation_checkpointing": True}, r"`student\.gradient_checkpointing: true`"),
        ({"student": StudentConfig("tiny-text", Lora(), quantize="4bit")}, r"student\.quantize .*plain multi-process"),
        ({"student": StudentConfig("tiny-text", device_map="auto")}, r"student\.device_map .*leave it out"),
        ({"rollout": "vllm_server"}, r"rollout: vllm_server .*`rollout: hf`"),
    ],
)
def test_what_does_not_work_in_shards_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        admitted(monkeypatch, **({"kind": DistributedType.FSDP, "student": TINY} | changes))
