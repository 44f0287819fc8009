"""YAML that says one thing: no key twice, keys that are names, nesting and aliases within bounds.

libyaml is quadratic in depth and an alias costs nothing to write, so depth is looked at before a document is composed
and size, aliases written out, before it is constructed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from yaml.constructor import ConstructorError

BYTES = 4 * 2**20
"""Of a file."""
DEPTH = 100
"""Lists and mappings within each other."""
NODES = 200_000
"""Values, with those behind an alias counted wherever it stands."""
CHARACTERS = 16 * 2**20
"""Of all values together, counted alike."""
DIGITS = 300
"""Of a whole number."""
_COMPACT = re.compile(r"(?:[-?:][ \t]+){50}")
_MAKING = re.compile(r"[\n,:?-]")
"""Characters of which each value needs one before or after it, but for the first."""
_NAMES = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:int", "tag:yaml.org,2002:merge")
_KINDS = {"bool": "true or false", "null": "nothing", "float": "a number", "timestamp": "a date"}


if TYPE_CHECKING:
    _Safe = yaml.SafeLoader
else:  # libyaml reads the same YAML some ten times faster, which a listing of all tasks notices
    _Safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Safe):
    """Says where what Python cannot make stands."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            if node.tag == _NAMES[1] and len(node.value) > DIGITS:
                raise ValueError(f"a whole number of more than {DIGITS} digits")
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # a date of no calendar, a number of 5,000 digits: whatever Python says of it
            raise ConstructorError(None, None, f"not a value: {error}", node.start_mark) from None


def loaded(text: str) -> object:
    """The value of a document.

    Raises:
        yaml.YAMLError: it is none, or more than is read; says where.
    """
    if text.count("[") + text.count("{") > 2 * DEPTH or _COMPACT.search(text) or len(_MAKING.findall(text)) > NODES:
        _check_size(text)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _weigh(node, 1, {})
        return loader.construct_document(node)
    except RecursionError:
        raise yaml.YAMLError(f"lists and mappings stand more than {DEPTH} deep within each other") from None
    finally:
        loader.dispose()


def _check_size(text: str) -> None:
    """Depth and number of values, one after the other: composed, a value too many takes as long as all before it."""
    depth = values = 0
    for event in yaml.parse(text, _Safe):
        values += isinstance(event, yaml.NodeEvent)
        if values > NODES:
            raise _refused(event, f"more than {NODES:,} values")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise _refused(event, f"lists and mappings stand more than {DEPTH} deep within each other")


def _weigh(node: Any, depth: int, known: dict[int, tuple[int, int, int] | None]) -> tuple[int, int, int]:
    """Values, characters and height of what stands at a node.

    Args:
        known: Of nodes seen before; None while one is being looked at.
    """
    if id(node) in known:
        before = known[id(node)]
        if before is None:
            raise _refused(node, "this value holds itself")
        if depth + before[2] > DEPTH:
            raise _refused(node, f"lists and mappings stand more than {DEPTH} deep within each other")
        return before
    if depth > DEPTH:
        raise _refused(node, f"lists and mappings stand more than {DEPTH} deep within each other")
    known[id(node)] = None
    values, characters, height = 1, 0, 1
    if isinstance(node, yaml.ScalarNode):
        characters = len(node.value)
    else:
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        pairs = isinstance(node, yaml.MappingNode)
        for child in (each for pair in node.value for each in pair) if pairs else node.value:
            inside = _weigh(child, depth + 1, known)
            values, characters, height = values + inside[0], characters + inside[1], max(height, 1 + inside[2])
            if values > NODES or characters > CHARACTERS:
                raise _refused(node, f"more than {NODES:,} values or {CHARACTERS:,} characters, aliases written out")
    known[id(node)] = values, characters, height
    return values, characters, height


def _check_keys(node: yaml.MappingNode) -> None:
    """Names, or whole numbers as ids of tokens are, each once; those of a merged mapping (`<<`) may be repeated."""
    seen: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refused(key, "a key must be a name, not a list or a mapping")
        if key.tag not in _NAMES:
            kind = _KINDS.get(key.tag.rpartition(":")[2], "no text")
            raise _refused(key, f"the key {key.value!r:.80} is read as {kind}; write it in quotes")
        if (key.tag, key.value) in seen:
            first = seen[key.tag, key.value]
            raise _refused(key, f"the key {key.value!r:.80} stands on line {first} already; keep one of them")
        seen[key.tag, key.value] = key.start_mark.line + 1


def _refused(node: Any, why: str) -> yaml.YAMLError:
    mark = node.start_mark
    return yaml.YAMLError(f"line {mark.line + 1}, column {mark.column + 1}: {why}")
