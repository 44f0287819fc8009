"""Prompt and answer are, token by token, the whole chat as its template renders it: real tokenizers and templates, and
chats of odd texts. `MMPU_CHATS=1000` tries as many of each; docs/students.md says what came of it."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from mmpu.core import Message, Part, Response, Sample, UserError
from mmpu.families import Family
from mmpu.student.encoding import Encoder
from mmpu.student.student_config import StudentConfig
from tiny import real_tokenizer, sample, shared_student, student

CHATS = int(os.environ.get("MMPU_CHATS", "30"))
TEMPLATES = {
    "qwen2_5": ("Qwen-Qwen2.5-7B-Instruct", "trl_qwen2_5_vl"),
    "qwen3": ("Qwen-Qwen3-0.6B", "trl_qwen3_vl"),
    "llama3": ("meta-llama-Llama-3.1-8B-Instruct", "trl_llama3"),
    "llama2_llava": ("llava-1.5", "trl_llava_next", "trl_gemma3"),
}
PAIRS = [(name, template) for name, found in TEMPLATES.items() for template in found]
SAID = (
    *(
        "yes",
        " no",
        "It is red.",
        "4",
        "\\boxed{4}",
        "the cat",
        "日本語",
        "🙂",
        "e\u0301",
        "\u200b",
        "ﬁ",
        "don't",
        "1234567",
    ),
    *(
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\r\n",
        "\u00a0",
        ".",
        "...",
        "<",
        "</b>",
        "\n<b>",
        "▁",
        "'s",
        "{{ x }}",
        "#",
        "x",
    ),
)


class Seeing(Family):
    """Its template takes parts; there is no picture here."""

    image_token = "<image>"


def encoder(tokenizer: Any, template: str | None = None, parts: bool = False, **options: Any) -> Encoder:
    if template is not None:
        tokenizer.chat_template = template
    model = shared_student("qwen2").base
    config = StudentConfig("real", **options)
    return Encoder(config, model.config, None, tokenizer, None, Seeing() if parts else Family())


def chat(draw: random.Random) -> tuple[Sample, str]:
    """A conversation, and what is said to it."""

    def text() -> str:
        return "".join(draw.choices(SAID, k=draw.randint(1, 12)))

    turns = [Message("system", (Part("text", text()),))] if draw.random() < 0.3 else []
    for _ in range(draw.choice((0, 0, 1, 2))):
        turns += [Message("user", (Part("text", text()),)), Message("assistant", (Part("text", text()),))]
    turns.append(Message("user", (Part("text", text()),)))
    return Sample(str(draw.random()), tuple(turns)), text()


def dictionaries(messages: tuple[Message, ...], parts: bool) -> list[dict[str, Any]]:
    return [{"role": m.role, "content": [{"type": "text", "text": m.text}] if parts else m.text} for m in messages]


@pytest.mark.parametrize(("name", "template"), PAIRS)
def test_prompt_and_answer_are_the_whole_chat(name: str, template: str, shared: Path) -> None:
    tokenizer = real_tokenizer(shared, name)
    parts = "llava" in template
    text = (shared / "data/tokenizers/templates" / f"{template}.jinja").read_text()
    ours = encoder(tokenizer, text, parts)
    end, eos = ours.turns.end, int(tokenizer.eos_token_id)
    draw = random.Random(7)
    merged = 0
    for _ in range(CHATS):
        prompt, said = chat(draw)
        begun = ours._ids(ours.render(prompt))
        found = begun + ours.response_ids(prompt, Response(said), eos)
        turns = [
            *dictionaries(prompt.prompt, parts),
            *dictionaries((Message("assistant", (Part("text", said),)),), parts),
        ]
        whole = tokenizer.apply_chat_template(turns, tokenize=False, enable_thinking=False, date_string="26 Jul 2024")
        if end is None:  # what the template writes behind the words is a blank, or the name of a turn in words
            whole = whole[: whole.rindex(ours.turns._turn.behind)] if template != "llava-1.5" else whole[:-1]
            ids = (*tokenizer(whole, add_special_tokens=False)["input_ids"], eos)
        else:
            every = tokenizer(whole, add_special_tokens=False)["input_ids"]
            ids = tuple(every[: len(every) - every[::-1].index(end)])
        if found != ids:
            assert ids[: len(begun)] != begun, "only where the answer would change the prompt's own tokens"
            assert tokenizer.decode(found) == tokenizer.decode(ids)
            merged += 1
        assert found[-1] == (eos if end is None else end)
        cut = ours.response_ids(prompt, Response(said, finished=False), eos)
        assert begun + cut == found[: len(begun) + len(cut)] or cut[:-1] == found[len(begun) :][: len(cut) - 1]
        assert not {end, eos} & set(cut)
    print(f"{name} {template}: {CHATS} chats, {merged} whose answer would merge with the prompt's end")
    assert merged <= CHATS // 3


# ------------------------------------------------------------------------------------------------------ small templates

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
OPENS = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"


def test_an_answer_ends_as_the_template_ends_a_turn() -> None:
    model = student("gemma3_text")
    model.tokenizer.eos_token = "<eos>"
    turn = model.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert model.response_ids(sample("x"), Response("red"))[-1] == turn
    assert turn not in model.response_ids(sample("x"), Response("red"))[:-1]
    assert turn not in model.response_ids(sample("x"), Response("red", finished=False))
    assert {turn, model.tokenizer.eos_token_id} <= model.eos


@pytest.mark.parametrize(("thinks", "ending"), [(False, "<think>\n\n</think>\n\n"), (True, "assistant\n<think>\n")])
def test_a_thought_that_the_template_opens_is_closed_or_kept(thinks: bool, ending: str) -> None:
    model = student("qwen2", template_options={"enable_thinking": thinks})
    model.tokenizer.chat_template = CHATML + OPENS
    assert model.encoder.render(sample("x")).endswith(ending)
    thought = Response("<think>\nWhy not?\n</think>\n\nred")
    found = model.decode(model.response_ids(sample("x"), thought))
    assert found == ("Why not?\n</think>\n\nred" if thinks else "red")
    plain = model.decode(model.response_ids(sample("x"), Response("red")))
    assert plain == ("\n\n</think>\n\nred" if thinks else "red")


def test_what_may_be_said_survives_and_what_frames_a_chat_does_not() -> None:
    model = student("qwen2")
    model.tokenizer.add_special_tokens({"additional_special_tokens": ["<|python_tag|>"]})
    encoder = Encoder(model.config, model.base.config, model.base, model.tokenizer, None, Family())
    tag, end = (model.tokenizer.convert_tokens_to_ids(t) for t in ("<|python_tag|>", "<|im_end|>"))
    ids = encoder.response_ids(sample("x"), Response("<|python_tag|>yes <|im_end|> no"), end)
    assert ids.count(tag) == 1
    assert ids.count(end) == 1
    assert encoder.decode(ids) == "<|python_tag|>yes < |im_end|> no"
    assert tag not in encoder.prompt_ids(sample("x", "<|python_tag|>yes"))


def test_an_assistants_turn_may_be_left_open() -> None:
    model = shared_student("qwen2")
    begun = Sample("x", (*sample("x").prompt, Message("assistant", (Part("text", "Digit:"),))))
    assert model.encoder.render(begun) == model.encoder.render(sample("x")) + "Digit:"


def test_a_template_that_refuses_names_the_sample() -> None:
    model = student("qwen2")
    model.tokenizer.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match=r"sample 'x': the chat template of .* refuses its turns \(user\): System role"):
        model.encode(sample("x"))


UNKNOWN = ("<reasoning>\n", "<|START_THINKING|>", "Let me think.\n")


@pytest.mark.parametrize("mark", UNKNOWN)
def test_a_thought_that_nobody_can_close_is_refused_or_kept(mark: str) -> None:
    template = CHATML + OPENS.replace("<think>\n", mark)
    model = student("qwen2")
    model.tokenizer.chat_template = template
    with pytest.raises(UserError, match=r"begin behind '.*enable_thinking: true"):
        model.response_ids(sample("x"), Response("red"))
    model = student("qwen2", template_options={"enable_thinking": True})
    model.tokenizer.chat_template = template
    assert model.encoder.render(sample("x")).endswith(mark)
    assert model.decode(model.response_ids(sample("x"), Response("red"))) == "red"


def test_a_template_that_leaves_out_a_turn_is_refused() -> None:
    model = student("qwen2")
    model.tokenizer.chat_template = CHATML.replace("in messages", "in messages if m.role != 'system'") + OPENS.replace(
        "<think>\n", ""
    )
    brief = Sample("x", (Message("system", (Part("text", "Be brief."),)), *sample("x").prompt))
    with pytest.raises(UserError, match=r"sample 'x'.* leaves out what the system says \('Be brief\.'\)"):
        model.encode(brief)


def test_contents_are_lists_where_a_template_takes_no_texts() -> None:
    model = student("qwen2")
    plain = CHATML + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    model.tokenizer.chat_template = plain.replace("{{ m.content }}", "{% for c in m.content %}{{ c.text }}{% endfor %}")
    expected = student("qwen2")
    expected.tokenizer.chat_template = plain
    assert model.encode(sample("x")).ids == expected.encode(sample("x")).ids
    assert model.response_ids(sample("x"), Response("red")) == expected.response_ids(sample("x"), Response("red"))


def test_a_template_without_a_generation_prompt_has_its_header_written() -> None:
    model = student("qwen2")
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
    assert model.encoder.render(sample("x")).endswith("<|im_end|>\nassistant: ")
    assert model.decode(model.response_ids(sample("x"), Response("red"))) == "red"


def test_a_turn_ends_with_all_its_ends() -> None:
    """As Command R7B's: the response's and the turn's. A token that is added and not special ends a turn as well."""
    model = student("qwen2")
    model.tokenizer.add_tokens(["<|END_RESPONSE|>"])
    model.tokenizer.chat_template = CHATML.replace("<|im_end|>\n", "<|END_RESPONSE|><|im_end|>") + OPENS.replace(
        "<think>\n", ""
    )
    encoder = Encoder(model.config, model.base.config, model.base, model.tokenizer, None, Family())
    ends = [model.tokenizer.convert_tokens_to_ids(t) for t in ("<|END_RESPONSE|>", "<|im_end|>")]
    assert list(encoder.response_ids(sample("x"), Response("red"), 0))[-2:] == ends
    assert encoder.turns.end == ends[1]
    model.tokenizer.chat_template = model.tokenizer.chat_template.replace(
        "<|END_RESPONSE|><|im_end|>", "<|END_RESPONSE|>"
    )
    encoder = Encoder(model.config, model.base.config, model.base, model.tokenizer, None, Family())
    assert encoder.turns.end == ends[0]
