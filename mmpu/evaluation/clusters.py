"""Which prompts tell the same: questions about one image, variants of one problem."""

from __future__ import annotations

from collections.abc import Sequence

from mmpu.core import Sample
from mmpu.media import fingerprint


def clusters_of(samples: Sequence[Sample]) -> dict[str, str]:
    """Which samples belong together, by id: the same `meta.cluster` or, without one, the same images."""
    found: dict[str, str] = {}
    for sample in samples:
        images = "+".join(fingerprint(image) for image in sample.images)
        found[sample.id] = str(sample.meta.get("cluster") or images or sample.id)
    return found
