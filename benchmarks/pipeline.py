"""The three parts of a step of LDL-GRPO: generate, score, update; by mmpu, and as a loop over transformers does it.

Lengths are forced: no token ends a response, so every pipeline generates the same number of tokens. Scoring asks for a
digit after question, anchor and candidate (`judge.txt`, 32 tokens besides them), once per candidate and once for the
anchor itself. Sampled texts differ between pipelines, since their random streams do; what is scored and updated on is
therefore fixed by the seed, and the scores are compared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import arms, models
from benchmarks.problem import Problem, Setting, problem, words
from mmpu.core import Group, Response, Sample, Sampling
from mmpu.engines.hf import HF
from mmpu.prompts import about
from mmpu.scorers.self_eval import ASK, SelfEval
from mmpu.student.student import Student

JUDGE = Path(__file__).with_name("judge.txt")
DIGITS = tuple("0123456789")


class Pipeline(ABC):
    """One way to take a step, part by part."""

    model: Any
    work: Problem

    @abstractmethod
    def generate(self) -> list[int]:
        """K responses to each prompt; their lengths."""

    @abstractmethod
    def score(self) -> list[float]:
        """The anchor's score and the candidates', prompt after prompt."""

    @abstractmethod
    def update(self) -> None:
        """One optimiser step."""


def make(name: str, setting: Setting) -> Pipeline:
    model = models.build(setting.shape, setting.device, setting.torch_dtype, setting.seed)
    work = problem(setting, model)
    if name == "ours":
        return Shared(model, work)
    return (Plain if name == "plain" else Trl)(model, work)


def anchor(setting: Setting, g: int) -> str:
    """The teacher's answer, as long as the longest candidate."""
    return words(setting, setting.completion, (6, g))


class Endless(Student):
    """A student whose responses end only at the length limit."""

    @property
    def eos(self) -> frozenset[int]:
        return frozenset()


class Shared(Pipeline):
    """mmpu: one prefill per prompt, one encoding per scoring trunk, one packed pass."""

    def __init__(self, model: Any, work: Problem) -> None:
        self.work = work
        assert work.rows  # measured to their length with the problem's own encoder, before anything is counted
        self.student = arms.student(model, work, Endless)
        self.student.start_stage(reference=False)
        self.model = self.student.base
        self.engine = HF(self.student)
        # A random model puts little mass on digits; real ones do not fall back to asking twice.
        self.scorer = SelfEval(self.engine, prompt=str(JUDGE), min_mass=0.0)
        self.train = arms.updater(self.student, work, lambda: arms.adamw(self.model))

    def generate(self) -> list[int]:
        setting = self.work.setting
        sampling = Sampling(max_tokens=setting.completion, seed=setting.seed)
        drawn = self.engine.generate(self.work.samples, setting.k, sampling)
        return [len(r.tokens or ()) for each in drawn if isinstance(each, tuple) for r in each]

    def score(self) -> list[float]:
        groups = [
            Group(rows[0].sample, anchor(self.work.setting, g), _asked(self.work, g))
            for g, rows in enumerate(self.work.rows)
        ]
        return [s for scores in self.scorer.score(groups) for s in scores]

    def update(self) -> None:
        self.train(self.work.rows, 0, 10)


class Plain(Pipeline):
    """A careful loop over transformers: `generate` on repeated prompts, one padded row per candidate."""

    def __init__(self, model: Any, work: Problem) -> None:
        self.model, self.work = model, work
        setting = work.setting
        self.rows = setting.k
        """Responses generated, scored or trained on at a time; a group, as for mmpu."""
        self.arm: arms.Arm = self._arm()
        self.model = self.arm.model

    def _arm(self) -> arms.Arm:
        return arms.Plain(self.model, self.work)

    def generate(self) -> list[int]:
        setting, lengths = self.work.setting, list[int]()
        for encoded in self.work.encoded:
            ids = torch.tensor([encoded.ids] * setting.k, device=setting.device)
            inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **self._media(encoded, setting.k)}
            if "image_grid_thw" in inputs:
                inputs["mm_token_type_ids"] = (ids == models.SPECIAL.index("<|image_pad|>")).int()
            lengths += self._sample(inputs)
        return lengths

    def _sample(self, inputs: dict[str, Tensor]) -> list[int]:
        self.model.eval()
        options = {"do_sample": True, "top_k": 0}
        with torch.no_grad():
            out = self.model.generate(**inputs, max_new_tokens=self.work.setting.completion, **options)
        return [out.shape[1] - inputs["input_ids"].shape[1]] * len(out)

    @cached_property
    def _evaluations(self) -> list[list[Any]]:
        """Per prompt, the encoded evaluation of the anchor and of every candidate."""
        setting, ask = self.work.setting, ASK["expected"]
        return [
            [
                self.work.encoder(
                    about(
                        rows[0].sample,
                        JUDGE,
                        anchor=anchor(setting, g),
                        candidate=response.text,
                        ask=ask[0],
                        cue=ask[1],
                    )
                )
                for response in _asked(self.work, g)
            ]
            for g, rows in enumerate(self.work.rows)
        ]

    def score(self) -> list[float]:
        digits = torch.tensor(self.work.encoder.tokenizer.convert_tokens_to_ids(list(DIGITS)))
        scores: list[float] = []
        self.model.eval()
        with torch.no_grad():
            for each in self._evaluations:
                for start in range(0, len(each), self.rows + 1):
                    scores += self._read(each[start : start + self.rows + 1], digits)
        return scores

    def _read(self, prompts: list[Any], digits: Tensor) -> list[float]:
        device = self.work.setting.device
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(p.ids) for p in prompts], batch_first=True).to(device)
        media = {k: torch.cat([p.media[k] for p in prompts]) for k in prompts[0].media}
        media = self._placed(media)
        if "image_grid_thw" in media:
            media["mm_token_type_ids"] = (ids == models.SPECIAL.index("<|image_pad|>")).int()
        backbone = getattr(self.model, self.model.base_model_prefix)
        hidden = backbone(input_ids=ids, use_cache=False, **media).last_hidden_state
        last = torch.tensor([len(p.ids) - 1 for p in prompts], device=device)
        logits = self.model.get_output_embeddings()(hidden[torch.arange(len(prompts), device=device), last]).float()
        p = logits.softmax(1)[:, digits.to(device)].double()
        return ((p * torch.arange(10, device=device)).sum(1) / (9 * p.sum(1))).tolist()

    def _media(self, encoded: Any, copies: int) -> dict[str, Tensor]:
        return self._placed({k: torch.cat([v] * copies) for k, v in encoded.media.items()})

    def _placed(self, media: dict[str, Tensor]) -> dict[str, Tensor]:
        setting = self.work.setting
        return {
            k: v.to(setting.device, setting.torch_dtype if v.is_floating_point() else None) for k, v in media.items()
        }

    def update(self) -> None:
        self.model.train()
        self.arm.step()


class Trl(Plain):
    """TRL's trainer for generating and updating; it has no self-evaluation, so scoring is the plain loop's."""

    arm: arms.Trl

    def _arm(self) -> arms.Arm:
        arm = arms.Trl(self.model, self.work, stock=False)
        arm.trainer.generation_config.eos_token_id = None  # lengths are forced
        arm.trainer.eos_token_ids = [-1]
        return arm

    def _sample(self, inputs: dict[str, Tensor]) -> list[int]:
        media = {k: v for k, v in inputs.items() if k not in ("input_ids", "attention_mask")}
        completions, _ = self.arm.trainer._generate_single_turn(
            inputs["input_ids"].tolist(), None, media, self.work.setting.k
        )
        return [len(each) for each in completions]


def _asked(work: Problem, g: int) -> tuple[Response, ...]:
    """What is scored: the anchor first, as in a rollout, then the candidates."""
    return (Response(anchor(work.setting, g)), *(row.response for row in work.rows[g]))


def question_overhead(work: Problem) -> int:
    """Tokens that an evaluation adds to question, anchor and candidate."""
    sample: Sample = work.samples[0]
    encoded = work.encoder(about(sample, JUDGE, anchor="w64", candidate="w64", ask="", cue=""))
    return len(encoded.ids) - work.setting.prompt - 2
