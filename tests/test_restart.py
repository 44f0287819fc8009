"""A run that is killed anywhere and started again is the same run, bit for bit, whatever is trained and how."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import apart
from mmpu.core import UserError
from mmpu.recipes import runs, training
from mmpu.train import loop
from mmpu.train.record import Record
from mmpu.train.signals import Interrupted, Signals
from mmpu.train.update import Updater
from tiny import sample, save

pytestmark = [pytest.mark.numerical, pytest.mark.slow]


class Killed(BaseException):
    """Stands for SIGKILL between two steps."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restart")
    save("qwen2", folder / "model")
    rows = [{"id": f"r{i}", "q": f"yes or no {i}?", "a": ("yes", "no")[i % 2]} for i in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    task = {
        "source": "rows.jsonl",
        "id": "{{ id }}",
        "prompt": [{"user": "{{ q }}"}],
        "reference": "The answer is {{ a }}.",
        "answer": "{{ a }}",
        "grader": "final_answer",
        "splits": {"train": {}, "test": {"part_of": "train"}},
        "sampling": {"max_tokens": 4},
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(task))
    return folder


def config(place: Path, run: Path, lora: dict[str, Any] | None, *methods: str, **stage: Any) -> Path:
    each = {"split": "train", "prompts_per_step": 2, "steps": 3, "k": 2, "checkpoint_every": 2, **stage}
    scored = {"ppo": {"scorer": "rule"}, "grpo": {"scorer": "rule"}}
    values = {
        "run": str(run),
        "student": {"model": str(place / "model"), "device": "cpu", "lora": lora},
        "task": str(place / "task.yaml"),
        "teacher": "reference",
        "stages": [
            {"name": m, "method": m, **scored.get(m, {}), "optim": {"lr": 1e-3}, "preflight": {"prompts": 0}, **each}
            for m in methods
        ],
    }
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.parent / f"{run.name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {f"{f.parent.parent.name}/{n}": t for f in run.glob("*/*/*.safetensors") for n, t in load_file(f).items()}


def killed_after(monkeypatch: pytest.MonkeyPatch, stage: str, step: int) -> None:
    written = Record.step

    def dying(self: Record, name: str, at: int, *rest: Any, **more: Any) -> Any:
        found = written(self, name, at, *rest, **more)
        if (name, at) == (stage, step):
            raise Killed
        return found

    monkeypatch.setattr(Record, "step", dying)


CASES: dict[str, tuple[dict[str, Any] | None, tuple[str, ...]]] = {
    "full": (None, ("grpo", "sft")),
    "lora": ({}, ("ppo", "sft")),
    "dora-ema": ({"dora": True}, ("sft", "sdft")),
    "pissa-value": ({"init": "pissa"}, ("sft", "ppo")),
    "olora-saved": ({"init": "olora", "rslora": True, "modules_to_save": ["norm"]}, ("sft", "grpo")),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_before_and_after_a_checkpoint_it_ends_the_same(
    case: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora, methods = CASES[case]
    lora = None if lora is None else {"r": 2, "alpha": 4, **lora}
    whole = training.train(str(config(place, tmp_path / "whole", lora, *methods)))
    path = str(config(place, tmp_path / "killed", lora, *methods))
    for step in (0, 2):
        with monkeypatch.context() as patched:
            killed_after(patched, methods[1], step)
            with pytest.raises(Killed):
                training.train(path)
    again = training.train(path)
    first, second = weights(whole), weights(again)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_what_is_left_out_stays_out_when_a_run_goes_on(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoded once, remembered in the stage's folder, and the same samples and weights behind it."""
    anchors = [{"id": f"r{i}", "output": "yes no " * 1500 if i == 4 else "The answer is yes."} for i in range(6)]
    (tmp_path / "anchors.jsonl").write_text("".join(json.dumps(a) + "\n" for a in anchors))
    teacher = f"teacher={{name: replay, path: {tmp_path / 'anchors.jsonl'}}}"
    whole = training.train(str(config(place, tmp_path / "whole", None, "sft", leave_out=["long"])), [teacher])
    path = str(config(place, tmp_path / "killed", None, "sft", leave_out=["long"]))
    with monkeypatch.context() as patched:
        killed_after(patched, "sft", 2)
        with pytest.raises(Killed):
            training.train(path, [teacher])
    kept = tmp_path / "killed/0-sft/left_out.json"
    assert [row["sample"] for row in json.loads(kept.read_text())["left_out"]] == ["r4"]
    with monkeypatch.context() as patched:
        patched.setattr("mmpu.train.rehearsal.misfit", lambda *_: pytest.fail("encoded again"))
        again = training.train(path, [teacher])
    first, second = weights(whole), weights(again)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def at_step_5(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, argument: int, number: int) -> None:
    """Sends this process a signal when `owner.name` is called for step 5."""
    whole = getattr(owner, name)

    def sent(*given: Any, **more: Any) -> Any:
        if given[argument] == 5:
            os.kill(os.getpid(), number)
        return whole(*given, **more)

    monkeypatch.setattr(owner, name, sent)


@pytest.fixture(scope="module")
def twelve(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps that nothing stops."""
    folder = tmp_path_factory.mktemp("twelve")
    return training.train(str(config(place, folder / "run", None, "sft", steps=12, checkpoint_every=50)))


@pytest.fixture
def listening() -> Generator[None]:
    """Signals are heard: a shell that starts tests in the background lets them ignore Ctrl-C, which a run respects."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("number", "owner", "name", "argument", "kept"),
    [(signal.SIGINT, loop, "collect", 1, 5), (signal.SIGTERM, Updater, "__call__", 2, 6)],
    ids=["sampling", "update"],
)
def test_a_signal_loses_no_whole_step(
    number: int,
    owner: Any,
    name: str,
    argument: int,
    kept: int,
    place: Path,
    twelve: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Real signals: sampling stops at once, an update is finished; both are gone on with, bit for bit."""
    path = str(config(place, tmp_path / "run", None, "sft", steps=12, checkpoint_every=50))
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patched:
        at_step_5(patched, owner, name, argument, number)
        with pytest.raises(Interrupted) as stopped:
            training.train(path)
    assert stopped.value.status == 128 + number
    assert f"stage sft stops after {kept} of 12 steps, which are kept" in "".join(capsys.readouterr())
    assert [p.name for p in (tmp_path / "run/0-sft").glob("step-*")] == [f"step-{kept:08d}"]
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    first, second = weights(twelve), weights(training.train(path))
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(12))


@pytest.mark.usefixtures("listening")
def test_the_second_signal_ends_at_once_and_several_processes_wait_for_each_other() -> None:
    with Signals().handled() as one:
        one.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGINT"):
            os.kill(os.getpid(), signal.SIGINT)
        assert one.insisted
    with Signals(several=True).handled() as many:
        many.wait()
        for _ in range(2):  # torchrun's echo
            os.kill(os.getpid(), signal.SIGTERM)
        many.go()  # the others do not know yet
        many.agreed = many.received
        with pytest.raises(Interrupted, match="SIGTERM"):
            many.go()
        assert not many.insisted
    found: list[Any] = []

    def elsewhere() -> None:
        with Signals().handled():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


def test_the_command_exits_as_a_shell_says_a_signal(place: Path, tmp_path: Path) -> None:
    path = config(place, tmp_path / "run", None, "sft", steps=10**6, checkpoint_every=10**6)
    process = apart.start(apart.MMPU, ["train", str(path)], tmp_path / "said")
    while process.is_alive() and not (tmp_path / "run/metrics.jsonl").exists():
        time.sleep(0.01)
    process.terminate()
    process.join()
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 143, said
    assert "of 1000000 steps, which are kept" in said
    assert len(list((tmp_path / "run/0-sft").glob("step-*"))) == 1


# ---------------------------------------------------------------------------------------- what is saved


def published(folder: Path, dtype: torch.dtype) -> Path:
    """A model as it may come: half precision, files that nobody here reads, sampling keys that disagree."""
    save("qwen2", folder)
    AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(generation | {"do_sample": False, "temperature": 0.6}))
    (folder / "processor_config.json").write_text('{"patch_size": 14}')
    return folder


def test_an_export_is_what_the_base_was(place: Path, tmp_path: Path) -> None:
    base = published(tmp_path / "base", torch.bfloat16)
    path = config(place, tmp_path / "run", {"r": 2, "alpha": 4}, "sft", "grpo", steps=1)
    path.write_text(path.read_text().replace(str(place / "model"), str(base)))
    run = training.train(str(path))
    shutil.copytree(run / "1-grpo", tmp_path / "moved")  # alone
    (tmp_path / "moved/step-00000001").mkdir()
    for name, source in (("a", run), ("b", tmp_path / "moved")):
        runs.export(str(source), tmp_path / name)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "a", dtype="auto")
    assert exported.dtype == torch.bfloat16
    for file in ("generation_config.json", "processor_config.json", "tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (base / file).read_bytes()
    moved = AutoModelForCausalLM.from_pretrained(tmp_path / "b", dtype="auto")
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(moved(ids).logits, exported(ids).logits, atol=0, rtol=0)


def test_a_full_student_with_a_config_that_cannot_be_written_is_saved(place: Path, tmp_path: Path) -> None:
    base = published(tmp_path / "base", torch.float32)
    path = config(place, tmp_path / "run", None, "sft", steps=1)
    path.write_text(path.read_text().replace(str(place / "model"), str(base)))
    run = training.train(str(path))
    student = runs.trained_student(run)
    ids = torch.tensor([student.encode(sample("a")).ids])
    runs.export(str(run), tmp_path / "out")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, student.model(ids).logits, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------- what may change on the way


def test_a_run_goes_on_with_what_changes_no_result(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(config(place, tmp_path / "run", None, "sft"))
    with monkeypatch.context() as patched:
        killed_after(patched, "sft", 2)
        with pytest.raises(Killed):
            training.train(path)
    for change, said in {
        "stages.sft.optim.lr=0.5": r"stages\.sft\.optim\.lr: 0\.001 → 0\.5",
        "stages.sft.steps=2": r"stages\.sft\.steps: 3 → 2",
        "seed=3": "seed: 0 → 3",
    }.items():
        with pytest.raises(UserError, match=said):
            training.train(path, [change])
    allowed = (
        "optim.tokens_per_pass=8192",
        "checkpoint_every=1",
        "kl_every=0",
        "alarms={}",
        "max_skipped=1",
        "steps=4",
    )
    moved = [*(f"stages.sft.{change}" for change in allowed), "about=again", "student.gradient_checkpointing=true"]
    run = training.train(path, moved)
    said = "".join(capsys.readouterr())
    assert "stages.sft.steps: 3 → 4: from here on the learning rate (cosine) is that of the new length" in said
    assert (run / "0-sft/student.json").exists()


def test_a_stage_is_trained_anew_and_what_was_there_is_set_aside(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Equal to a run that had the other settings from the start; earlier stages stay, and later ones may be new."""
    path = str(config(place, tmp_path / "run", None, "sft", "grpo", steps=2))
    run = training.train(path)
    other = str(config(place, tmp_path / "other", None, "sft", "grpo", steps=2))
    change = "stages.grpo.optim.lr=0.0005"
    expected = weights(training.train(other, [change]))
    first, lines = (run / "0-sft/model/model.safetensors").stat(), (run / "groups.jsonl").read_text().splitlines()
    paid = json.loads((run / "ledger.json").read_text())
    with pytest.raises(UserError, match=r"stages\.grpo\.optim\.lr: 0\.001 → 0\.0005\); .*--restart-from STAGE"):
        training.train(path, [change])
    with pytest.raises(UserError, match=r"stages\.sft\.optim\.lr: 0\.001 → 0\.5\); stages before"):
        training.train(path, ["stages.sft.optim.lr=0.5"], "grpo")
    with pytest.raises(UserError, match="no such stage; it has sft, grpo"):
        training.train(path, [change], "ppo")
    assert not (run / "before").exists()
    training.train(path, [change], "grpo")
    assert f"set aside, to {run / 'before/1'}: 1-grpo" in "".join(capsys.readouterr()).replace("\n", "")
    again = weights(run)
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)
    assert (run / "0-sft/model/model.safetensors").stat().st_mtime_ns == first.st_mtime_ns
    moved = (run / "before/1/groups.jsonl").read_text().splitlines()
    assert moved == [line for line in lines if json.loads(line)["stage"] == "grpo"]
    assert (run / "before/1/1-grpo/student.json").exists()
    stages = [json.loads(line)["stage"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert stages == ["sft"] * 2 + ["grpo"] * 2
    assert json.loads((run / "ledger.json").read_text())["student_samples"] > paid["student_samples"]

    longer = yaml.safe_load(Path(path).read_text())
    longer["stages"][1]["optim"]["lr"] = 5e-4
    longer["stages"].append({**longer["stages"][0], "name": "last"})
    Path(path).write_text(yaml.safe_dump(longer))
    training.train(path)
    assert (run / "2-last/student.json").exists()


def test_a_damaged_checkpoint_is_named_and_an_older_one_used(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = training.train(str(config(place, tmp_path / "whole", None, "sft", steps=4)))
    path = str(config(place, tmp_path / "run", None, "sft", steps=4, checkpoint_every=1))
    with monkeypatch.context() as patched:
        killed_after(patched, "sft", 3)
        with pytest.raises(Killed):
            training.train(path)
    damaged = tmp_path / "run/0-sft/step-00000003/optimizer.pt"
    damaged.write_bytes(damaged.read_bytes()[:-40] + b"\0" * 40)
    run = training.train(path)
    said = "".join(capsys.readouterr())
    assert "step-00000003 is damaged: optimizer.pt is not what was written; going on from step-00000002" in said
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(run).values(), strict=True))
    (run / "0-sft/step-00000001").mkdir()
    training.train(path)
    assert not list((run / "0-sft").glob("step-*"))
