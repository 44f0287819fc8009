"""Trackers by name: whether each is there is known before a run begins, since accelerate leaves out what is not."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from mmpu.core import UserError
from mmpu.plugins import suggest

PACKAGES = {
    "aim": ("aim",),
    "clearml": ("clearml",),
    "comet_ml": ("comet_ml",),
    "dvclive": ("dvclive",),
    "mlflow": ("mlflow",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""What accelerate knows, with the packages of which one is needed."""


def check(names: Sequence[str]) -> None:
    """Raises:
    UserError: accelerate knows no such tracker, or it is not installed.
    """
    for name in names:
        if name not in PACKAGES:
            raise UserError(f"trackers: accelerate knows no {name!r}; {suggest(name, PACKAGES)}")
        if not any(importlib.util.find_spec(package) for package in PACKAGES[name]):
            raise UserError(
                f"trackers: {name} is not installed, and nothing would be tracked; `pip install {PACKAGES[name][0]}`, "
                "or leave it out (`trackers=[]`). metrics.jsonl in the run's folder is written in any case"
            )
