"""A model that has learned a few exchanges by heart, behind a real server: what a judge's words do on the wire.

A scripted engine answers first; a tiny Qwen2 is trained on what it said until greedy decoding says the same.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

from mmpu.core import Engine, Response, Sample, Sampling, user
from mmpu.engines.hf import HF
from mmpu.engines.openai import OpenAI
from mmpu.learning import Row
from mmpu.methods.sft import SFT
from mmpu.scorers.rubric import Rubric
from mmpu.scorers.scalar_judge import ScalarJudge
from mmpu.scorers.token_judge import TokenJudge
from mmpu.student.loading import load_student
from mmpu.student.student import Student
from mmpu.student.student_config import StudentConfig
from mmpu.train.optim import Optim
from mmpu.train.update import Updater
from test_scorers import POOL, WEIGHTS, Scripted, group, rubric, verifier
from tiny import text_model, text_shape

REFUSED = group("b", "0 1", "2", anchor="a prompt that gets no rubric")
GROUPS = [POOL, REFUSED]
Scores = list[tuple[float, ...]]


def reply(text: str, seed: int) -> str:
    """A rubricator, its verifier and a judge in one."""
    if text.startswith("Write a rubric"):
        return "I would rather not." if "no rubric" in text else rubric(*WEIGHTS)
    if text.startswith("Check every answer"):
        return verifier(text, seed)
    right = POOL.responses[0].text in text
    if text.startswith("Is the candidate solution correct?"):
        return "Yes" if right else "No"
    return "0.95" if right else "0.15"


def rubrics(engine: Engine) -> Scores:
    return Rubric(engine, m=1, max_failed=0.5, max_tokens=400, temperature=0.0).score(GROUPS)


def marks(engine: Engine) -> Scores:
    return ScalarJudge(engine).score([POOL])


def verdicts(engine: Engine) -> Scores:
    return TokenJudge(engine).score([POOL])


def lessons() -> dict[str, str]:
    """Every prompt that the scorers send, with the reply that is to come back."""
    script = Scripted(reply)
    rubrics(script)
    marks(script)
    verdicts(script)
    return {text: reply(text, 0) for text in script.asked}


def expected(score: Callable[[Engine], Scores]) -> Scores:
    return score(Scripted(reply))


def memorised(folder: Path, most: int = 400) -> Path:
    """A student that answers every lesson by heart, saved for a server."""
    learned = lessons()
    _, small = text_model("qwen2")
    tokenizer = small.train_new_from_iterator([t for pair in learned.items() for t in pair], 600, show_progress=False)
    tokenizer.chat_template = small.chat_template
    torch.manual_seed(0)
    shape = text_shape(len(tokenizer), tokenizer) | {"hidden_size": 128, "intermediate_size": 256}
    model = Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True))
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.generation_config = GenerationConfig(**ends)
    student = Student(model, tokenizer, StudentConfig("tiny-random", device="cpu"))
    student.start_stage(reference=False)
    rows = [[Row(Sample(f"s{i}", user(text)), Response(said))] for i, (text, said) in enumerate(learned.items())]
    optim = Optim(lr=3e-3, schedule="constant", warmup=0.02)
    update = Updater(student, student, optim.build(student), SFT(), optim, Accelerator(cpu=True))
    for step in range(most):
        if update(rows, step, most)["nll_per_token"] < 0.005:
            break
    engine = HF(student)
    answers = engine.generate([row.sample for (row,) in rows], 1, Sampling(temperature=0.0, max_tokens=400))
    assert [a[0].text for a in answers if isinstance(a, tuple)] == list(learned.values()), "not learned by heart"
    student.save(folder)
    return folder


@contextlib.contextmanager
def serving(
    server: str, folder: Path, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Generator[OpenAI]:
    """The memorised model behind `<server> serve`, an executable beside this Python's.

    Raises:
        AssertionError: it ended, or did not come up in five minutes; with what it wrote.
    """
    model, log = memorised(folder / "model"), folder / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name(server)), "serve", str(model), *options]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env={**os.environ, **(environment or {})},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 300
    try:
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                break
            time.sleep(0.2)
        yield OpenAI(str(model), f"http://127.0.0.1:{port}/v1", concurrency=4, retries=1)
    finally:
        process.terminate()
        process.wait(30)


def in_process(engine: OpenAI) -> HF:
    """The weights that a server serves."""
    return HF(load_student(StudentConfig(engine.model, device="cpu")))
