"""What others wrote is a value or one clear error: files, YAML, JSON, templates, names, and what is shown of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from conftest import ROOT
from mmpu import boards, files, sandbox, shown, strict_yaml
from mmpu.cli.main import main
from mmpu.client import client
from mmpu.config import load_yaml
from mmpu.core import UserError
from mmpu.prompts import inert
from mmpu.task import load_task, templates

BOMB = "a0: &a0 [l,l,l,l,l,l,l,l,l]\n" + "".join(
    f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1: the key 'a' stands on line 1 already"),
        ("x: {b: 1, b: 2}", "the key 'b' stands on line 1 already"),
        ("a: 2026-99-99", "line 1, column 4"),
        (f"a: {'9' * 5000}", "a whole number of more than 300 digits"),
        (f"a: {':'.join(['1'] * 5000)}", "a whole number of more than 300 digits"),
        ("no: 1", "the key 'no' is read as true or false; write it in quotes"),
        ("? [a]\n: b", "a key must be a name"),
        ("a: &a [*a]", "holds itself"),
        (BOMB, "aliases written out"),
        (f"a: {'[' * 200_000}", "deep within each other"),
        ("- " * 200_000, "deep within each other"),
        ("".join(" " * n + "a:\n" for n in range(300)), "deep within each other"),
        ("a: !!timestamp x", "not a value"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: \x00", "control characters"),
        ("", "must hold a mapping"),
    ],
)
def test_yaml_that_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UserError, match=r"x\.yaml") as raised:
        load_yaml(tmp_path / "x.yaml")
    assert message in str(raised.value)


def test_yaml_that_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("base: &b {x: 1, y: 2}\nown: {<<: *b, x: 3}\nbias: {15: -100}\nsame: *b")
    assert load_yaml(tmp_path / "x.yaml") == {
        "base": {"x": 1, "y": 2},
        "own": {"x": 3, "y": 2},
        "bias": {15: -100},
        "same": {"x": 1, "y": 2},
    }


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / ("x" * 5000), tmp_path / "a\0b"):
        with pytest.raises(OSError, match="file"):
            files.content(path)
        assert not files.is_file(path)
    (tmp_path / "file").write_bytes(b"12345")
    assert files.content(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="5 bytes are more than the 4"):
        files.content(tmp_path / "file", 4)


def test_json_is_bounded_in_depth() -> None:
    assert files.parsed('{"a": "[[[["}') == {"a": "[[[["}
    assert files.parsed("[" * 100 + "]" * 100)
    for text in ("[" * 101 + "]" * 101, "[" * 200_000, '{"a":' * 900 + "1" + "}" * 900, "9" * 5000, b"\xff", "{"):
        with pytest.raises(ValueError, match=r"deep|digits|decode|Expecting"):
            files.parsed(text)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**11 }}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ 'a' | center(10**10) }}",
        "{{ 'a'.center(10**10) }}",
        "{{ [1] | batch(10**10, 'x') | list }}",
        "{{ 'a\nb' | indent(10**10) }}",
        "{{ range(10**12) | list }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '{:{w}}'.format(1, w=10**9) }}",
        "{{ (['x' * 1000000] * 100000) | join }}",
        "{{ ','.join(['a' * 1000000] * 1000000) }}",
        "{{ ('a' * 1000000) | replace('', 'b' * 1000000) }}",
        "{% macro f(n) %}{{ f(n - 1) }}{{ f(n - 1) }}{% endmacro %}{{ f(9) }}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(30) }}",
        "{% set n = namespace(a='aaaaaaaaaa') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'a' * 100000 }}{% endfor %}",
        "{{ ([[1] * 1000000] * 1000) | sum(start=[]) }}",
        "{% for i in [1] %}" * 25 + "{% endfor %}" * 25,
        "{{ " + "(" * 20_000 + " }}",
        "{{ " + "9" * 5000 + " }}",
        "{{ q | literal }}",
        "{{ ('-' * 100000 ~ '1') | literal }}",
        "{{ q[::0] }}",
        "{% include 'x' %}",
    ],
)
def test_a_template_ends(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "STEPS", 10_000)
    monkeypatch.setattr(sandbox, "SIZE", 10_000_000)
    with pytest.raises(UserError, match="here"):
        templates.text(template, {"q": "one?"}, "here")


def test_what_honest_templates_do_is_the_same() -> None:
    row = {"xs": [1, 2, 3], "s": "abc", "big": "x" * 20_000_000}
    for template, expected in {
        "{% for x in xs %}{{ loop.index }}/{{ loop.length }}{{ ',' if not loop.last }}{% endfor %}": "1/3,2/3,3/3",
        "{% for x in xs if x > 1 %}{{ x }}{% else %}none{% endfor %}": "23",
        "{{ s ~ '-' ~ xs[0] }}{{ s[1:] }}{{ xs | join(' * ') }}": "abc-1bc1 * 2 * 3",
        "{{ '%s has 1000000' % s }}{{ '{} * {}'.format(1, 2) }}": "abc has 10000001 * 2",
        "{{ none_there | default(1000000) }}{{ s.replace('b', 'BB') }}": "1000000aBBc",
    }.items():
        assert templates.text(template, row, "here") == expected
    assert templates.value("{{ big }}", row, "here") is row["big"]


def test_names_become_file_names() -> None:
    assert files.file_name("qwen2.5-1") == "qwen2.5-1"
    for name in ("../../x", "a/b", "..", ".", "", "a\0b", "x" * 5000, "ü" * 200, "\ud800", ".hidden", "a\nb"):
        made = files.file_name(name)
        assert made == Path(made).name
        assert made.isprintable()
        assert not made.startswith(".")
        assert len(made.encode()) < 200
    assert len({files.file_name(name) for name in ("a/b", "a:b", "a-b", "a b")}) == 4


def test_what_is_shown_does_nothing() -> None:
    evil = "\x1b]0;pwned\x07\x1b[2J\u202eabc\u2066\x9b\ud800\r"
    assert shown.visible(evil + "\nb\t") == ("\\x1b]0;pwned\\x07\\x1b[2J\\u202eabc\\u2066\\x9b\\ud800\\x0d\nb\t")
    assert shown.visible("Größe 👩‍👩‍👧 می‌خواهم") == "Größe 👩‍👩‍👧 می‌خواهم"
    assert shown.one_line("a\nb") == "a\\nb"
    assert shown.markdown("a|b\n\n| x |<img onerror=1>[k](javascript:1)`") == (
        "a\\|b \\| x \\|&lt;img onerror=1&gt;[k]&#40;javascript:1)&#96;"
    )


def test_what_an_endpoint_says_of_waiting_is_bounded() -> None:
    for header in ("inf", "1e308", "31536000", "Fri, 31 Dec 9999 23:59:59 GMT"):
        assert client.retry_after(header) == client.LONGEST_REST
    for header in ("nan", "soon", "Fri, 31 Dec 99999 23:59:59 GMT", "Mon, 99 Foo 2020 99:99:99"):
        assert client.retry_after(header) in (None, 0.0, client.LONGEST_REST)
    assert client.retry_after("-5") == 0.0
    assert client.retry_after("2.5") == 2.5


def test_addresses_and_keys_that_are_none() -> None:
    for url in (
        "http://[::1",
        "http://a:99999/v1",
        "http://a b/v1",
        "http://" + "a" * 300,
        "http://a\nb",
        "x",
        "http://",
    ):
        with pytest.raises(UserError, match="is not an address"):
            client.checked_url(url)
    for key in ("a\nb", "a\x00b", "schlüssel"):
        with pytest.raises(UserError, match="MY_KEY") as raised:
            client.checked_key(key, "MY_KEY")
        assert key not in str(raised.value)
    assert client.checked_key("sk-1", "MY_KEY") == "sk-1"


def test_half_a_surrogate_in_a_reply_is_replaced() -> None:
    assert files.writable({"a": ["x\ud800", {"\udc00": "ü😀"}, 1]}) == {"a": ["x\ufffd", {"\ufffd": "ü😀"}, 1]}


@pytest.mark.parametrize(
    "mark",
    ["<start_of_turn>", "<｜User｜>", "<|im_start|>", "<<SYS>>", "<</SYS>>", "[INST]", "[TOOL_CALLS]", "</s>", "<bos>"],
)
def test_chat_marks_of_every_family_are_inert(mark: str) -> None:
    assert mark not in inert(f"x {mark} y")
    assert inert("a < b, a[i], List<int>, <b>bold</b> x<y|z>w") == "a < b, a[i], List<int>, <b>bold</b> x<y|z>w"


def test_a_yaml_of_too_many_values_is_refused_before_it_is_composed() -> None:
    with pytest.raises(yaml.YAMLError, match=r"column 400000: more than 200,000 values$"):
        strict_yaml.loaded(f"[{'1,' * 300_000}1]")
    assert strict_yaml.loaded(f"a: '{',' * 300_000}'") == {"a": "," * 300_000}


def test_a_json_key_that_stands_twice_is_refused_where_people_write() -> None:
    assert files.parsed('{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="the key 'a' stands twice"):
        files.parsed('[{"a": {"b": 1, "a": 2}}, {"a": 1, "a": 2}]', once=True)


def test_what_is_no_utf_8_says_where(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"caf\xe9\n")
    with pytest.raises(ValueError, match=r"it is no UTF-8 text \(.*at byte 3\); save it as UTF-8"):
        files.text(tmp_path / "x")


def test_a_home_that_is_nobody_s_is_a_name() -> None:
    assert files.place("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
    assert files.place("~/x") == Path.home() / "x"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["leaderboard", "{here}"], 2, "holds no board"),
        (["leaderboard", "x" * 5000], 2, "correct the path"),
        (["leaderboard", "caf\udce9"], 2, "is no UTF-8 text"),
        (["tasks", "show", "x" * 5000], 2, "no task 'xxx"),
        (["eval", "a=a.jsonl", "--task", "market", "--max-cost", "nan"], 2, "nan is no finite number"),
        (["eval", "a=a.jsonl", "--task", "market", "--limit", "9" * 30], 2, "is not in the range"),
        (["tasks", "show", "market", "--split", f"test[{'9' * 30}:]"], 2, "cannot read the split"),
        (["tasks", "check", "market", "--data", ""], 2, "names no files and no revision"),
        (["publish", "leaderboards/market.rule.json", "--to", "hf://../x"], 2, "a repository is named hf://"),
    ],
)
def test_arguments_that_cannot_be_meant(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    done = CliRunner().invoke(main, [each.replace("{here}", str(tmp_path)) for each in arguments])
    assert (done.exit_code, message in " ".join(done.output.split())) == (code, True), done.output


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("entries", 0, "win_rate", "rate", "low"), "0.1"),
        (("entries", 0, "win_rate", "rate", "low"), True),
        (("entries", 0, "accuracy", "value"), -5),
        (("entries", 0, "mean_words"), -1),
        (("entries", 0, "n"), 10**25),
    ],
)
def test_a_board_with_numbers_that_none_can_have_is_refused(
    tmp_path: Path, place: tuple[str | int, ...], value: object
) -> None:
    found = json.loads((ROOT / "leaderboards/market.rule.json").read_text())
    inside = found
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    (tmp_path / "b.json").write_text(json.dumps(found))
    with pytest.raises(UserError, match=r"b\.json"):
        boards.read(tmp_path / "b.json")


def test_a_board_with_a_row_or_a_key_twice_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "leaderboards/market.rule.json").read_text()
    found = json.loads(text)
    (tmp_path / "b.json").write_text(json.dumps({**found, "entries": [*found["entries"], found["entries"][0]]}))
    with pytest.raises(UserError, match="stands there twice"):
        boards.read(tmp_path / "b.json")
    (tmp_path / "b.json").write_text(text.rstrip().removesuffix("}") + ', "task": "other"}')
    with pytest.raises(UserError, match="the key 'task' stands twice"):
        boards.read(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q,a,q\n1,2,3\n", "names the column 'q' twice"),
        ("q;a\n1;2\n", "parted by ';'; save it with commas"),
        ("q\ta\n1\t2\n", r"parted by '\\t'; name it .tsv"),
        ("q,\n1,2\n", "column 2 of the header has no name"),
        ("What is 1+1?,2\nWhat is 2+2?,4\n", "looks like a value: does the file lack a first line of names"),
    ],
)
def test_a_table_whose_header_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.csv").write_text(text)
    (tmp_path / "t.yaml").write_text("source: rows.csv\nprompt: [{user: '{{ q }}'}]\nsplits: {test: {}}\n")
    with pytest.raises(UserError, match=message):
        load_task(str(tmp_path / "t.yaml")).samples("test")


def test_tables_as_pandas_and_spreadsheets_write_them(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("source: rows.csv\nprompt: [{user: '{{ q }}'}]\nsplits: {test: {}}\n")
    for text in (",q\n0,x\n1,y\n", "\nq\nx\ny\n", "q,\nx,\ny,\n", "q\nx; y\ny\n"):
        (tmp_path / "rows.csv").write_text(text)
        assert len(load_task(str(tmp_path / "t.yaml")).samples("test")) == 2
