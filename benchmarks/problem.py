"""What every arm of a row computes on: prompts of one length with ragged candidates, all fixed by a seed."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import models
from benchmarks.models import Shape
from mmpu.core import Group, Part, Response, Sample, user
from mmpu.learning import Row
from mmpu.methods.ldl_grpo import LDLGRPO
from mmpu.student.encoding import Encoder
from mmpu.student.packing import Encoded
from mmpu.student.student_config import StudentConfig

METHOD = LDLGRPO(form="mean", kl="none")


@dataclass(frozen=True)
class Setting:
    """One row of a table."""

    model: str
    """A key of `models.SHAPES`."""
    prompt: int
    """Tokens of a prompt, its image and template included."""
    completion: int
    """Tokens of the longest candidate; the others have between half as many and as many."""
    k: int = 8
    groups: int = 1
    vocabulary: int | None = None
    """Takes the place of the model's own."""
    layers: int | None = None
    """Takes the place of the model's own."""
    tokens_per_pass: int = 16384
    """Budget of mmpu's update."""
    method: LDLGRPO = METHOD
    device: str = "cpu"
    dtype: str = "float32"
    ragged: bool = True
    seed: int = 0

    @property
    def shape(self) -> Shape:
        shape = models.SHAPES[self.model]
        return replace(shape, vocabulary=self.vocabulary or shape.vocabulary, layers=self.layers or shape.layers)

    @property
    def images(self) -> int:
        return int(self.shape.family != "qwen2")

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    @property
    def name(self) -> str:
        image = ", 1 image" if self.images else ""
        groups = f", {self.groups} prompts" if self.groups > 1 else ""
        return (
            f"{self.model}, V = {self.shape.vocabulary:,}, P = {self.prompt}{image}, C = {self.completion}, "
            f"K = {self.k}{groups}, {self.dtype}, {self.device}"
        )


@dataclass(frozen=True)
class Problem:
    """A setting's prompts and candidates, and the label distribution of LDL-GRPO over them."""

    setting: Setting
    encoder: Encoder = field(repr=False)
    recorded: Sequence[Sequence[float]] = ()
    """Log-probabilities of every candidate's tokens under the starting weights, as a sampler records them. Empty where
    only the amount of work matters: then they count as zero."""

    @cached_property
    def samples(self) -> list[Sample]:
        return [self._sample(g) for g in range(self.setting.groups)]

    @cached_property
    def encoded(self) -> list[Encoded]:
        return [self.encoder(sample) for sample in self.samples]

    @cached_property
    def rows(self) -> list[list[Row]]:
        """Per prompt, a row per candidate, weighted D(k)."""
        result: list[list[Row]] = []
        for g, sample in enumerate(self.samples):
            group = Group(sample, responses=tuple(self._responses(g)), scores=self.scores[g], anchor_score=1.0)
            rows = self.setting.method.supervise(group) or [Row(sample, group.responses[0])]  # K = 1 teaches nothing
            result.append([replace(row, group=g) for row in rows])
        return result

    @cached_property
    def scores(self) -> list[tuple[float, ...]]:
        """As a self-evaluator would give them: between 0 and 1, one per candidate."""
        drawn = np.random.default_rng((self.setting.seed, 1)).random((self.setting.groups, self.setting.k))
        return [tuple(row) for row in drawn.tolist()]

    @property
    def completions(self) -> list[tuple[int, ...]]:
        """Token ids, group after group."""
        return [row.response.tokens or () for rows in self.rows for row in rows]

    def ldl_coefficients(self) -> Tensor:
        """dL/dℓ of each token of a row, (B,): (q − D) / T_k per prompt, from the recorded log-likelihoods.

        Each of `sum`, `mean` and `ratio` divides differently; see `mmpu/methods/ldl_grpo.py`.
        """
        lengths = torch.tensor([len(c) for c in self.completions], dtype=torch.float64)
        z = torch.tensor([sum(row.response.logp) for rows in self.rows for row in rows], dtype=torch.float64)
        form = self.setting.method.form
        z = z / lengths if form == "mean" else torch.zeros_like(z) if form == "ratio" else z
        q = z.view(self.setting.groups, -1).softmax(1).flatten()
        d = torch.tensor([row.weight for rows in self.rows for row in rows], dtype=torch.float64)
        return (q - d) / self.setting.groups / (lengths if form == "mean" else 1.0)

    def grpo_advantages(self) -> Tensor:
        """Scores, standardised within their group, (B,)."""
        scores = torch.tensor(self.scores)
        return ((scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + 1e-4)).flatten()

    def _sample(self, g: int) -> Sample:
        images = [Part("image", picture(g))] * self.setting.images
        spare = self.setting.prompt - len(self.encoder(Sample("empty", user(*images, "w64"))).ids) + 1
        if spare < 1:
            raise SystemExit(f"a prompt of {self.setting.prompt} tokens has no room for its template and image")
        return Sample(f"{g}", user(*images, words(self.setting, spare, (2, g))))

    def _responses(self, g: int) -> list[Response]:
        result: list[Response] = []
        for k, n in enumerate(lengths(self.setting, g)):
            text = words(self.setting, n, (4, g, k))
            logp = self.recorded[g * self.setting.k + k] if self.recorded else (0.0,) * n
            result.append(Response(text, tuple(int(word[1:]) for word in text.split()), tuple(logp)))
        return result


def lengths(setting: Setting, g: int) -> list[int]:
    """Tokens of each candidate of a prompt; the first is the longest."""
    if not setting.ragged:
        return [setting.completion] * setting.k
    half = (setting.completion + 1) // 2
    drawn = np.random.default_rng((setting.seed, 3, g)).integers(half, setting.completion + 1, setting.k).tolist()
    return [setting.completion, *drawn[1:]]


def problem(setting: Setting, model: object, recorded: Sequence[Sequence[float]] = ()) -> Problem:
    shape = setting.shape
    config = StudentConfig(setting.model, dtype=setting.dtype, device=setting.device)  # pyright: ignore
    family = models.FAMILIES[shape.family]()
    processor = models.image_processor(shape)
    encoder = Encoder(config, model.config, model, models.tokenizer(shape), processor, family)  # pyright: ignore
    return Problem(setting, encoder, recorded)


def words(setting: Setting, count: int, key: tuple[int, ...]) -> str:
    """A text of as many tokens as words."""
    ids = np.random.default_rng((setting.seed, *key)).integers(models.FIRST_WORD, setting.shape.vocabulary, count)
    return " ".join(f"w{i}" for i in ids)


def picture(seed: int) -> str:
    """A noisy picture as a data URI; image processors make 256 tokens of it."""
    pixels = np.random.default_rng((seed, 5)).integers(0, 256, (448, 448, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
