"""vLLM itself, on its CPU build: what it samples, reads and reports is what the student computes, before an update and
after it. `make test-vllm` installs it and runs this file."""

from __future__ import annotations

import gc
import json
import math
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner, Result

from mmpu.cli.main import main
from mmpu.core import Choice, Failed, Response, Sample, Sampling, UserError
from mmpu.duel import Duel
from mmpu.engines import _vllm
from mmpu.engines._vllm import StaleWeights
from mmpu.engines.hf import HF, _truncate
from mmpu.engines.vllm import ENVIRONMENT, VLLM
from mmpu.engines.vllm_server import VLLMServer
from mmpu.judges.pairwise import Pairwise
from mmpu.judging.verdicts import Verdicts, key_of
from mmpu.recipes import training as recipe
from mmpu.recipes.judges import read_judge
from mmpu.student.lora import Lora
from mmpu.student.packing import Tree, pack
from mmpu.student.student import Student
from mmpu.task.yaml_task import YamlTask, load_task
from only_vllm import ONLY_VLLM
from tiny import noise, picture, sample, samples, save, student

pytestmark = ONLY_VLLM

TOLERANCE = 2e-5
"""Nats; the largest difference seen is 6e-6."""
SERVED = ("qwen2", "llama", "llava", "qwen2_5_vl", "qwen3_vl")
LORA = Lora(r=4, alpha=8)
OPTIONS = {"enforce_eager": True}
"""Compiling takes longer than these tests."""


def start(model: Student, folder: Path) -> VLLM:
    seeing = {"limit_mm_per_prompt": {"image": 2}} if model.family.image_token else {}
    return VLLM(model, folder, max_length=1024, rows=32, options={**OPTIONS, **seeing})


def prompts(model: Student) -> list[Sample]:
    """Prompts of different lengths, with pictures of different sizes, two in one, none, and one that is resized."""
    if model.family.image_token is None:
        return samples("qwen2")
    return [*samples("llava"), sample("d", "What colour?", noise())]


def trees(model: Student, asked: Sequence[Sample], answers: Sequence[Any]) -> list[Tree]:
    return [Tree(model.encode(s), tuple(r.tokens or () for r in rs)) for s, rs in zip(asked, answers, strict=True)]


def gap(model: Student, asked: Sequence[Sample], answers: Sequence[Any]) -> float:
    """Largest difference between the log-probabilities recorded and those of the student on the same tokens."""
    assert not [a for a in answers if isinstance(a, Failed)], answers
    with torch.no_grad():
        forced = model(pack(trees(model, asked, answers), model.pad))
    recorded = torch.tensor([logp for responses in answers for r in responses for logp in r.logp])
    return float((recorded - forced).abs().max())


def shift(model: Student, by: float = 0.05) -> None:
    """An update, as the trainer would count it."""
    torch.manual_seed(model.version)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * by)
    model.version += 1


def tokens(answers: Sequence[Any]) -> list[list[tuple[int, ...]]]:
    return [[r.tokens for r in responses] for responses in answers]


@pytest.fixture(scope="module", params=SERVED)
def full(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    model = student(request.param)
    model.start_stage(reference=False)
    engine = start(model, tmp_path_factory.mktemp("full"))
    yield engine
    engine.close()


@pytest.fixture(scope="module", params=SERVED)
def adapted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLM]:
    model = student(request.param, LORA)
    model.start_stage(reference=False)
    engine = start(model, tmp_path_factory.mktemp("adapted"))
    yield engine
    engine.close()


def follows_updates(engine: VLLM) -> None:
    model = engine.student
    asked, sampling = prompts(model), Sampling(max_tokens=12, seed=3)
    before = engine.generate(asked, 4, sampling)
    assert gap(model, asked, before) <= TOLERANCE
    for _ in range(2):
        shift(model)
        after = engine.generate(asked, 4, sampling)
        assert gap(model, asked, after) <= TOLERANCE
        assert tokens(after) != tokens(before)
        before = after


# -------------------------------------------------------------------------------------------------- in this process


def test_answers_are_the_students(full: VLLM) -> None:
    asked = prompts(full.student)
    answers = full.generate(asked, 4, Sampling(max_tokens=12, seed=3))
    assert gap(full.student, asked, answers) <= TOLERANCE
    assert all(len({r.tokens for r in responses}) > 1 for responses in answers)
    assert tokens(full.generate(asked, 4, Sampling(max_tokens=12, seed=3))) == tokens(answers)
    assert tokens(full.generate(asked, 4, Sampling(max_tokens=12, seed=4))) != tokens(answers)
    for prompt, responses in zip(asked, answers, strict=True):
        assert tokens(full.generate([prompt], 4, Sampling(max_tokens=12, seed=3))) == tokens([responses])
        for r in responses:
            assert r.finished == (r.tokens[-1] in full.student.eos)
            assert r.text == full.student.decode(r.tokens)


def test_choose_agrees_with_the_in_process_engine(full: VLLM) -> None:
    asked = [*prompts(full.student), prompts(full.student)[0]]
    options = ["yes", "no", "7", "no such token"]
    for ours, theirs in zip(full.choose(asked, options), HF(full.student).choose(asked, options), strict=True):
        assert isinstance(ours, Choice)
        assert isinstance(theirs, Choice)
        assert ours.probs == pytest.approx(theirs.probs, abs=1e-6)
        assert ours.outside == pytest.approx(theirs.outside, abs=1e-6)


def test_greedy_is_the_in_process_engines_and_certain(full: VLLM) -> None:
    asked, greedy = prompts(full.student), Sampling(temperature=0.0, max_tokens=8)
    ours, theirs = full.generate(asked, 1, greedy), HF(full.student).generate(asked, 1, greedy)
    assert tokens(ours) == tokens(theirs)
    assert all(set(r[0].logp) == {0.0} for r in ours if isinstance(r, tuple))


def test_reloaded_weights_are_the_students(full: VLLM) -> None:
    follows_updates(full)


def test_a_token_of_prompts_is_never_sampled(full: VLLM) -> None:
    """Not even where, unbanned, it would be drawn before any other."""
    model, asked = full.student, prompts(full.student)
    if not model.family.never_sampled:
        pytest.skip("a text family bans nothing")
    assert model.banned
    with torch.no_grad():
        packed = pack([Tree(model.encode(s), ((model.pad,),)) for s in asked], model.pad)
        ends = model.hidden(packed, packed.end_M)
        head = model.base.get_output_embeddings().weight
        head[model.banned[0]] = ends.mean(0)
        assert (ends @ head.T).softmax(1)[:, model.banned[0]].mean() > 0.5
    model.version += 1
    answers = full.generate(asked, 8, Sampling(max_tokens=16, seed=1))
    assert gap(model, asked, answers) <= TOLERANCE
    assert not {t for rs in answers for r in rs for t in r.tokens} & set(model.banned)


def test_answers_of_other_weights_are_refused(full: VLLM) -> None:
    full.sync()
    full._copy.llm.update_weight_version("other")
    with pytest.raises(StaleWeights, match="'other'"):
        full.generate(prompts(full.student)[:1], 1, Sampling(max_tokens=2))
    shift(full.student, 0.0)
    asked = prompts(full.student)[:1]
    assert gap(full.student, asked, full.generate(asked, 1, Sampling(max_tokens=2))) <= TOLERANCE


def test_a_prompt_that_cannot_be_served_fails_alone(full: VLLM) -> None:
    model = full.student
    long, broken = sample("long", "yes no " * 600), sample("broken", "?", "data:image/png;base64,AAAA")
    good = prompts(model)[0]
    answers = full.generate([good, long, broken], 1, Sampling(max_tokens=8))
    assert gap(model, [good], answers[:1]) <= TOLERANCE
    assert isinstance(answers[1], Failed)
    assert "more than the 1024" in answers[1].reason
    assert isinstance(answers[2], Failed)
    assert "'broken'" in answers[2].reason
    assert isinstance(full.choose([long], ["yes"])[0], Failed)


@pytest.mark.parametrize("knobs", [{"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.6}, {"min_p": 0.2}])
def test_log_probabilities_are_of_the_distribution_sampled_from(full: VLLM, knobs: dict[str, float]) -> None:
    model, asked = full.student, prompts(full.student)
    sampling = Sampling(max_tokens=12, seed=5, **knobs)
    answers = full.generate(asked, 4, sampling)
    packed = pack(trees(model, asked, answers), model.pad)
    with torch.no_grad():
        logits = model.logits(model.hidden(packed, packed.source_N))
    logp = (logits / sampling.temperature).log_softmax(1)
    if not {"temperature"} & set(knobs):
        logp = _truncate(logp, sampling).log_softmax(1)
    expected = logp.gather(1, packed.target_N[:, None])[:, 0]
    recorded = torch.tensor([lp for rs in answers for r in rs for lp in r.logp])
    torch.testing.assert_close(recorded, expected, atol=TOLERANCE, rtol=0)


def test_stop_strings_and_stop_tokens_end_an_answer(full: VLLM) -> None:
    model, asked = full.student, prompts(full.student)[:1]

    def ask(**knobs: Any) -> Any:
        return full.generate(asked, 1, Sampling(max_tokens=40, seed=1, **knobs))[0]

    free: Response = ask()[0]
    text = free.text
    found = re.search("[a-z]{2}", text)
    assert found
    stop = found[0]
    (cut,) = ask(stop=(stop,))
    assert cut.finished
    assert cut.text == text[: text.index(stop)]
    assert cut.tokens == (free.tokens or ())[: len(cut.tokens)]
    unknown = ask(stop=("<|eot_id|>",))
    assert isinstance(unknown, Failed)
    assert "'<|eot_id|>'" in unknown.reason
    special = next(iter(model.tokenizer.get_added_vocab()))
    assert gap(model, asked, [ask(stop=(special,))]) <= TOLERANCE


def test_a_loaded_adapter_is_the_students(adapted: VLLM) -> None:
    follows_updates(adapted)
    asked = prompts(adapted.student)
    ours, theirs = (e.choose(asked, ["yes", "7"]) for e in (adapted, HF(adapted.student)))
    for a, b in zip(ours, theirs, strict=True):
        assert isinstance(a, Choice)
        assert isinstance(b, Choice)
        assert a.probs == pytest.approx(b.probs, abs=1e-6)
    assert adapted._copy.shelf is not None
    assert len(list(adapted._copy.shelf.iterdir())) == 1


def held() -> int:
    """Bytes of all tensors in this process."""
    gc.collect()
    storages = {t.untyped_storage() for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.device.type == "cpu"}
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def test_twenty_updates_leave_its_weights_equal_and_memory_flat(full: VLLM) -> None:
    stays_flat(full)


def test_twenty_adapters_leave_its_weights_equal_and_memory_flat(adapted: VLLM) -> None:
    stays_flat(adapted)


def stays_flat(engine: VLLM) -> None:
    """Nothing is written but adapters, which lie in memory."""
    model, asked = engine.student, prompts(engine.student)
    sizes: list[int] = []
    for _ in range(20):
        shift(model, 0.002)
        engine.sync()
        sizes.append(held())
    assert gap(model, asked, engine.generate(asked, 2, Sampling(max_tokens=6))) <= TOLERANCE
    assert sizes[-1] == sizes[2]
    written = [p for p in engine.folder.rglob("*") if p.suffix in (".safetensors", ".bin")]
    assert not written
    theirs: dict[str, torch.Tensor] = engine._copy.llm.apply_model(_norms)[0]
    ours = {_short(name): tensor.float() for name, tensor in _vllm.weights(model)}
    same = [name for name in theirs if name in ours]
    assert len(same) >= 4, "a layer has two norms"
    for name in same:
        torch.testing.assert_close(theirs[name], ours[name], atol=0, rtol=0)


def _norms(model: Any) -> dict[str, torch.Tensor]:
    return {_short(n): p.detach().float() for n, p in model.named_parameters() if n.endswith("layernorm.weight")}


def _short(name: str) -> str:
    """From the layer on."""
    return name[name.find("layers.") :]


def test_it_sleeps_while_weights_are_updated(full: VLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps(full, monkeypatch)


def test_it_sleeps_while_an_adapter_is_updated(adapted: VLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps(adapted, monkeypatch)


def sleeps(engine: VLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU sleeping frees nothing; the calls are those that a GPU gets."""
    engine.sync()
    model, copy, asked = engine.student, engine._copy, prompts(engine.student)
    monkeypatch.setattr(copy, "sleeps", True)
    calls: list[Any] = []

    def recorded(name: str, call: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append((name, kwargs.get("level") or kwargs.get("tags") or (args[0] if args else None)))
        return call(*args, **kwargs)

    for name in ("sleep", "wake_up", "collective_rpc", "update_weight_version", "reset_prefix_cache"):
        monkeypatch.setattr(copy.llm, name, partial(recorded, name, getattr(copy.llm, name)))
    engine.rest()
    engine.rest()
    shift(model)
    answers = engine.generate(asked, 2, Sampling(max_tokens=6))
    assert gap(model, asked, answers) <= TOLERANCE
    assert [call for call in calls if call[0] != "collective_rpc" or call[1] == "reload_weights"] == [
        ("sleep", 2),
        ("wake_up", ["weights"]),
        ("collective_rpc", "reload_weights"),
        ("wake_up", ["kv_cache"]),
        ("reset_prefix_cache", None),
        ("update_weight_version", str(model.version)),
    ]


def test_a_new_stage_is_no_new_start(adapted: VLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted.sync()
    monkeypatch.setattr(VLLM, "_start", lambda *_: pytest.fail("started again"))
    adapted.student.start_stage(reference=False)
    follows_updates(adapted)


# ----------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workshop")
    save("qwen2_5_vl", folder / "model")
    rows = [{"id": f"r{i}", "q": f"yes or no {i}?", "a": ("yes", "no")[i % 2], "image": picture()} for i in range(12)]
    (folder / "pictures.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    anchors = [{"id": r["id"], "output": f"The answer is {r['a']}."} for r in rows]
    (folder / "anchors.jsonl").write_text("".join(json.dumps(a) + "\n" for a in anchors))
    task = {
        "source": "pictures.jsonl",
        "id": "{{ id }}",
        "prompt": [{"user": [{"image": "{{ image }}"}, "{{ q }}"]}],
        "answer": "{{ a }}",
        "reference": "The answer is {{ a }}.",
        "grader": "final_answer",
        "splits": {"train": {}, "test": {"part_of": "train"}},
        "sampling": {"max_tokens": 8},
    }
    (folder / "pictures.yaml").write_text(yaml.safe_dump(task))
    return folder


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "lora"])
def test_training_samples_from_the_weights_it_has(
    workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: dict[str, int] | None
) -> None:
    """LDL-GRPO in two stages: each step's candidates are the live student's, to the log-probability."""
    seen: list[tuple[int, float]] = []
    sampled = VLLM.generate

    def watched(self: VLLM, asked: Sequence[Sample], n: int, sampling: Sampling) -> Any:
        answers = sampled(self, asked, n, sampling)
        seen.append((self.student.version, gap(self.student, asked, answers)))
        return answers

    monkeypatch.setattr(VLLM, "generate", watched)
    stage = {
        "method": {"name": "ldl_grpo", "form": "mean"},
        "scorer": "rule",
        "split": "train",
        "k": 3,
        "prompts_per_step": 4,
        "steps": 2,
        "preflight": {"prompts": 0},
        "optim": {"lr": 1e-2, "warmup": 0.0, "schedule": "constant"},
    }
    values = {
        "run": str(tmp_path / "run"),
        "student": {"model": str(workshop / "model"), "device": "cpu", "lora": lora},
        "rollout": {"name": "vllm", "max_length": 512, "rows": 16, "options": OPTIONS},
        "task": str(workshop / "pictures.yaml"),
        "teacher": {"name": "replay", "path": "anchors.jsonl"},
        "stages": [{"name": "one", **stage}, {"name": "two", **stage}],
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    recipe.train(str(tmp_path / "run.yaml"))
    assert len(seen) == 4
    assert len({version for version, _ in seen}) == 4
    assert max(difference for _, difference in seen) <= TOLERANCE
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert all(m["grad_norm"] > 0 for m in metrics)
    assert not (tmp_path / "run/.rollout").exists()


# ---------------------------------------------------------------------------------------------------------- a server


LETTERS = ("A", "B", "T")


def opinionated(lora: Lora | None = None) -> Student:
    """A tiny Qwen3-VL that begins about three of four replies with a judge's letter."""
    model = student("qwen3_vl", lora)
    ids = [token for letter in LETTERS for token in model.option_ids(letter)]
    torch.manual_seed(0)
    with torch.no_grad():
        packed = pack([Tree(model.encode(s), ((model.pad,),)) for s in prompts(model)], model.pad)
        ends = model.hidden(packed, packed.end_M)
        head = model.base.get_output_embeddings().weight
        level = (ends @ head.T).logsumexp(1).mean() + math.log(3 / len(ids))
        row = level * ends.mean(0) / (ends @ ends.mean(0)).mean()
        head[ids] = row + 0.1 * torch.randn(len(ids), head.shape[1])
    return model


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a `vllm serve` with the tiny Qwen3-VL."""
    folder = tmp_path_factory.mktemp("served")
    opinionated().save(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    limits = ["--max-model-len", "1024", "--max-num-seqs", "32", "--limit-mm-per-prompt", '{"image": 2}']
    lora = ["--enable-lora", "--max-lora-rank", "8"]
    reading = ["--enable-scale-out", "--logprobs-mode", "processed_logprobs", "--max-logprobs", "128"]
    light = ["--dtype", "float32", "--enforce-eager", "--distributed-executor-backend", "uni"]
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(folder / "model")]
    address = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny-judge"]
    settings = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    inherited = {k: v for k, v in os.environ.items() if k not in ENVIRONMENT}  # of the engine in this process
    log = folder / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, *address, *limits, *lora, *reading, *light],
            env={**inherited, **settings},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 300
    try:
        while True:
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(30)


def client(url: str, folder: Path, **knobs: Any) -> VLLMServer:
    model = opinionated(LORA)
    model.start_stage(reference=False)
    return VLLMServer(model, folder, url, **knobs)


def adapters(url: str) -> list[str]:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as reply:
        return [m["id"] for m in json.load(reply)["data"] if m["parent"]]


def test_a_server_follows_the_student(served: str, tmp_path: Path) -> None:
    engine = client(served, tmp_path)
    model = engine.student
    asked, sampling, options = prompts(model), Sampling(max_tokens=12, seed=3), ["yes", "no", "7", *"0123456789"]
    before = engine.generate(asked, 4, sampling)
    assert gap(model, asked, before) <= TOLERANCE
    assert tokens(engine.generate(asked, 4, sampling)) == tokens(before)
    for _ in range(2):
        shift(model)
        after = engine.generate(asked, 4, sampling)
        assert gap(model, asked, after) <= TOLERANCE
        assert tokens(after) != tokens(before)
        before = after
        for ours, theirs in zip(engine.choose(asked, options), HF(model).choose(asked, options), strict=True):
            assert isinstance(ours, Choice)
            assert isinstance(theirs, Choice)
            assert ours.probs == pytest.approx(theirs.probs, abs=1e-6)
        assert adapters(served) == [f"mmpu-{engine._served.run}-{model.version}"]
    failed = engine.generate([sample("long", "yes no " * 600), asked[0]], 1, sampling)
    assert isinstance(failed[0], Failed)
    assert gap(model, asked[:1], failed[1:]) <= TOLERANCE
    engine.close()
    assert adapters(served) == []


def test_a_server_and_the_engine_in_process_draw_the_same(served: str, tmp_path: Path) -> None:
    engine = client(served, tmp_path / "server")
    here = start(engine.student, tmp_path / "here")
    try:
        asked, sampling = prompts(engine.student), Sampling(max_tokens=12, seed=9, temperature=0.8)
        assert tokens(engine.generate(asked, 4, sampling)) == tokens(here.generate(asked, 4, sampling))
    finally:
        engine.close()
        here.close()


def test_an_adapter_that_went_missing_is_noticed(served: str, tmp_path: Path) -> None:
    engine = client(served, tmp_path)
    asked = prompts(engine.student)[:1]
    engine.sync()
    body = json.dumps({"lora_name": engine._served.adapter}).encode()
    request = urllib.request.Request(f"{served}/v1/unload_lora_adapter", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10):
        pass
    with pytest.raises(UserError, match="does not exist"):
        engine.generate(asked, 1, Sampling(max_tokens=2))


def test_a_server_of_other_weights_is_refused(served: str, tmp_path: Path) -> None:
    engine = client(served, tmp_path)
    with torch.no_grad():
        engine.student.base.get_output_embeddings().weight.mul_(1.5)
    with pytest.raises(UserError, match="holds other weights than the student"):
        engine.choose(prompts(engine.student)[:1], ["yes"])
    engine.close()


def test_a_server_needs_an_adapter(served: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set `student.lora`"):
        VLLMServer(opinionated(), tmp_path, served).sync()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> YamlTask:
    """A working directory with a task of pictures, two systems' answers, and a judge. No picture needs resizing, for
    which the server uses another library."""
    monkeypatch.chdir(tmp_path)
    sizes = [(64, 64), (64, 96), (96, 64), (64, 128)]
    rows = [
        {
            "id": f"p{i}",
            "q": "What colour is the shape?",
            "image": picture(*sizes[i % 4], ("red", "blue", "green")[i % 3]),
        }
        for i in range(8)
    ]
    Path("pictures.json").write_text(json.dumps(rows))
    Path("pictures.yaml").write_text(
        'source: pictures.json\nid: "{{ id }}"\nprompt: [{user: [{image: "{{ image }}"}, "{{ q }}"]}]\n'
    )
    for name, words in (("ours", "It is large."), ("theirs", "The answer is true, shape")):
        lines = [json.dumps({"id": row["id"], "output": f"{words} {i}"}) for i, row in enumerate(rows)]
        Path(f"{name}.jsonl").write_text("\n".join(lines))
    Path("better.txt").write_text("{{ question }}\nA: {{ a }}\nB: {{ b }}\nWhich? A B T")
    Path("judge.yaml").write_text(
        "about: tiny\nkind: pairwise\nprompt: better.txt\nmin_mass: 0.01\nengine: {name: openai, model: tiny-judge}\n"
    )
    return load_task("pictures.yaml")


def mmpu(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_a_served_judge_reads_what_the_student_would(served: str, bench: YamlTask) -> None:
    """`mmpu eval` over the wire: images in, log-probabilities out, the same to the last digit as in this process."""
    command = ["eval", "ours=ours.jsonl", "--baseline", "theirs=theirs.jsonl", "--task", "pictures.yaml"]
    command += ["--split", "train", "--judge", "judge.yaml", "--judge-url", f"{served}/v1", "--out", "boards"]
    done = mmpu(*command, "--probes", "1")
    assert done.exit_code == 0, done.output
    readings = {reading.key: reading for reading in Verdicts(Path("boards/verdicts.sqlite")).all()}
    assert all(reading.win is not None and reading.detail for reading in readings.values())

    judge = read_judge("judge.yaml").make(bench, f"{served}/v1")
    assert isinstance(judge, Pairwise)
    duels = [
        Duel(s, f"It is large. {i}", f"The answer is true, shape {i}") for i, s in enumerate(bench.samples("train"))
    ]
    asked = [(duel, order) for duel in duels for order in judge.orders]
    expected = HF(opinionated()).choose(judge.prompts(asked), LETTERS)
    for (duel, order), choice in zip(asked, expected, strict=True):
        assert isinstance(choice, Choice)
        mass = sum(choice.probs.values())
        detail = readings[key_of(judge.identity, duel, order)].detail
        assert detail == pytest.approx({letter: p / mass for letter, p in choice.probs.items()}, abs=1e-5)
    assert len({round(reading.detail["A"], 6) for reading in readings.values()}) > 8, "it looks at what it is shown"

    assert mmpu(*command, "--probes", "1").exit_code == 0
    assert len(list(Verdicts(Path("boards/verdicts.sqlite")).all())) == len(readings), "nothing is asked twice"


def test_a_served_judge_is_audited(served: str, bench: YamlTask) -> None:
    options = ["--baseline", "theirs.jsonl", "--split", "train", "--limit", "2", "--judge-url", f"{served}/v1"]
    done = mmpu("judge", "audit", "--judge", "judge.yaml", "--task", "pictures.yaml", *options, "--out", "boards")
    assert done.exit_code in (0, 1), done.output  # a random judge may like anything
    readings = list(Verdicts(Path("boards/verdicts.sqlite")).all())
    assert readings
    assert all(reading.win is not None for reading in readings)


def test_no_server_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not take the adapter"):
        client("http://127.0.0.1:9", tmp_path, retries=0).sync()


def test_an_evaluation_gives_the_student_s_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy answers of the same weights, in vLLM and in process; the second time nobody is asked."""
    monkeypatch.chdir(tmp_path)
    Path("rows.json").write_text(json.dumps([{"q": f"{i}+1?", "a": str(i + 1)} for i in range(3)]))
    Path("sums.yaml").write_text(
        'prompt: [{user: "{{ q }}"}]\nanswer: "{{ a }}"\nreference: "{{ a }}"\nsource: rows.json\ngrader: number\n'
        "judge: rule\nbaseline: reference\nsampling: {max_tokens: 10, temperature: 0}\n"
    )
    Path("v.yaml").write_text(json.dumps({"name": "vllm", "max_length": 512, "options": OPTIONS}))
    command = ["eval", "a=tiny-text", "b=hf:tiny-text", "--engine", "v.yaml", "--task", "sums.yaml"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, (done.output, done.exception)
    said = [next(Path("leaderboards").glob(f"*/{label}.outputs.jsonl")).read_text() for label in "ab"]
    assert said[0] == said[1]
    monkeypatch.setattr(VLLM, "_start", lambda *_: pytest.fail("asked twice"))
    assert CliRunner().invoke(main, command).exit_code == 0
    assert not list(Path("leaderboards").glob(".*.vllm"))
