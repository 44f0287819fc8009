"""What methods with a KL to the stage's start have in common."""

from __future__ import annotations

from mmpu.learning import Divergence, Method, Shadow
from mmpu.losses import KL
from mmpu.student import REVERSE


class ToStart(Method):
    """Adds `beta` times the KL to the stage's start, in the form that `kl` names."""

    kl: KL
    beta: float

    @property
    def penalised(self) -> bool:
        return self.kl != "none" and self.beta > 0

    @property
    def reads_start(self) -> bool:
        """True if the stage's start has to read every response, so that whole distributions can be compared."""
        return self.penalised and self.kl == "full"

    @property
    def reference(self) -> frozenset[str]:
        """What the penalty needs: the start's log-probabilities, unless whole distributions are compared."""
        return frozenset({"reference"} if self.penalised and not self.reads_start else ())

    @property
    def shadow(self) -> Shadow | None:
        return Shadow("start") if self.reads_start else None

    @property
    def divergence(self) -> Divergence | None:
        return REVERSE if self.reads_start else None
