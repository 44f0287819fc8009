"""Training. `mmpu.train(config, *assignments, restart_from=None, **keys)` trains the stages of a config and returns its
`mmpu.Run`: see `mmpu.api.training.train` and docs/python.md. The files of this package are how a stage is trained."""

from mmpu.doors import spoken

spoken(__name__, "mmpu.api.training:train")
