"""Tasks: from YAML, by way of sources and templates, to samples."""

from mmpu.task.yaml_task import YamlTask, load_local, load_task, parse_split

__all__ = ["YamlTask", "load_local", "load_task", "parse_split"]
