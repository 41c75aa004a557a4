"""Writes the vectors of text -> token ids: `python protocol/preprocess_vectors.py [--check]`.

Each file holds a whole tiny tokenizer, the manifest's `preprocess` object, a normalised row and
what must come out. The expected ids are written by hand from SPEC section 7; no implementation is
imported. `expect` is `ok` or an error code.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "vectors" / "preprocess"

Vector = dict[str, Any]

WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d", "e", ",")
LETTERS = ("<s>", "</s>", "<u>", "<a>", "x", "y", "z", "Ġ", "xy", "\u010a")
CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role[0] }}>{{ m.content }}"
    "{% if m.role[0] == 'a' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)
MARKED = CHAT.replace("{{ m.content }}", "{% generation %}{{ m.content }}{% endgeneration %}")
CLOCK = CHAT.replace(
    "{{ m.content }}", "{{ m.content if strftime_now('%d %b %Y') == '01 Jan 2026' }}"
)
FICKLE = "{% for m in messages %}{{ loop.length }}{{ m.content }}{% endfor %}"


def token(index: int, text: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": index, "content": text, "special": True, **flags}


def special(text: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": text, "type_id": 0}}


def text(name: str) -> dict[str, Any]:
    return {"Sequence": {"id": name, "type_id": 0}}


def tokenizer(vocabulary: tuple[str, ...], specials: int, **parts: Any) -> dict[str, Any]:
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [token(i, vocabulary[i]) for i in range(specials)],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        **parts,
    }


def template(single: list[Any], pair: list[Any], ids: dict[str, int]) -> dict[str, Any]:
    specials = {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()}
    kind = "TemplateProcessing"
    return {"type": kind, "single": single, "pair": pair, "special_tokens": specials}


def encoder(**changes: Any) -> dict[str, Any]:
    """WordPiece: a=4 b=5 c=6 d=7 e=8 ,=9; [CLS]=1 A [SEP]=2 B [SEP]."""
    single = [special("[CLS]"), text("A"), special("[SEP]")]
    parts = {
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template(
            single, [*single, text("B"), special("[SEP]")], {"[CLS]": 1, "[SEP]": 2}
        ),
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: i for i, word in enumerate(WORDS)},
        },
    }
    return tokenizer(WORDS, 4, **{**parts, **changes})


def decoder() -> dict[str, Any]:
    """Byte-level BPE: x=4 y=5 z=6 space=7 xy=8 newline=9; puts <s>=0 before a text."""
    single = [special("<s>"), text("A")]
    return tokenizer(
        LETTERS,
        4,
        pre_tokenizer={
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        },
        post_processor=template(single, [*single, text("B")], {"<s>": 0}),
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {letter: i for i, letter in enumerate(LETTERS)},
            "merges": [["x", "y"]],
        },
    )


def rules(**changes: Any) -> dict[str, Any]:
    fields = {
        "max_length": 16,
        "truncation": "right",
        "prefix_ids": [],
        "eos_token_id": None,
        "pad_token_id": 0,
        "chat_template": None,
    }
    return {**fields, **changes}


def classify(
    comment: str, row: dict[str, Any], ids: list[int], limit: int = 16, **changes: Any
) -> Vector:
    return {
        "comment": comment,
        "expect": "ok",
        "task": "classification",
        "vocab_size": 10,
        "preprocess": rules(max_length=limit),
        "row": row,
        "ids": ids,
        "targets": None,
        "tokenizer": encoder(**changes),
    }


def generate(
    comment: str, row: dict[str, Any], ids: list[int], targets: list[int], **changes: Any
) -> Vector:
    return {
        "comment": comment,
        "expect": "ok",
        "task": "causal_lm",
        "vocab_size": 10,
        "preprocess": rules(**{"prefix_ids": [0], "eos_token_id": 1, **changes}),
        "row": row,
        "ids": ids,
        "targets": targets,
        "tokenizer": decoder(),
    }


def refused(vector: Vector) -> Vector:
    return {**vector, "expect": "bad_data", "ids": None, "targets": None}


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def classification_vectors() -> dict[str, Vector]:
    padded = {"strategy": {"Fixed": 12}, "direction": "Right", "pad_to_multiple_of": None}
    padding = {**padded, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}
    truncation = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    pair = {"text": "a b c d", "text_pair": "e"}
    even = {"text": "a b c", "text_pair": "d e a"}
    return {
        "single": classify("special tokens around one text", {"text": "a b,"}, [1, 4, 5, 9, 2]),
        "single_unknown": classify("an unknown word", {"text": "a q"}, [1, 4, 3, 2]),
        "single_cut": classify("keeps its first", {"text": "a b c d"}, [1, 4, 5, 2], 4),
        "single_exact": classify("fits to the token", {"text": "a b"}, [1, 4, 5, 2], 4),
        "single_special_in_text": classify(
            "special tokens in a text are matched", {"text": "a [SEP] b"}, [1, 4, 2, 5, 2]
        ),
        "pair": classify("text before text_pair", pair, [1, 4, 5, 6, 7, 2, 8, 2]),
        "pair_cut_first": classify("the longer loses", pair, [1, 4, 5, 2, 8, 2], 6),
        "pair_cut_second": classify(
            "the longer loses, second text",
            {"text": "e", "text_pair": "a b c d"},
            [1, 8, 2, 4, 5, 2],
            6,
        ),
        "pair_cut_tie": classify(
            "of equals the first gets less", even, [1, 4, 5, 2, 7, 8, 4, 2], 8
        ),
        "pair_cut_both": classify("room for three", even, [1, 4, 2, 7, 8, 2], 6),
        "own_padding": classify(
            "the file's own padding and truncation are off",
            {"text": "a b c d"},
            [1, 4, 5, 6, 7, 2],
            padding=padding,
            truncation=truncation,
        ),
        "no_room": refused(classify("special tokens exceed the limit", {"text": "a"}, [], 1)),
    }


def causal_vectors() -> dict[str, Vector]:
    return turn_vectors() | cut_turn_vectors() | plain_text_vectors()


def turn_vectors() -> dict[str, Vector]:
    no = -100
    row = {"prompt": "xx", "completion": "yz"}
    return {
        "turns": generate(
            "prefix, prompt, completion, eos; loss on the last two",
            row,
            [0, 4, 4, 5, 6, 1],
            [no, no, no, 5, 6, 1],
        ),
        "turns_joined": generate(
            "encoded apart: x|y is not merged to xy",
            {"prompt": "x", "completion": "y"},
            [0, 4, 5, 1],
            [no, no, 5, 1],
        ),
        "turns_space": generate(
            "spaces stay where they are",
            {"prompt": "x ", "completion": " y"},
            [0, 4, 7, 7, 5, 1],
            [no, no, no, 7, 5, 1],
        ),
        "turns_bare": generate(
            "no prefix, no eos", row, [4, 4, 5, 6], [no, no, 5, 6], prefix_ids=[], eos_token_id=None
        ),
        "turns_empty_prompt": generate(
            "nothing asked", {"prompt": "", "completion": "y"}, [0, 5, 1], [no, 5, 1]
        ),
    }


def cut_turn_vectors() -> dict[str, Vector]:
    no = -100
    long = {"prompt": "xyz", "completion": "zzzz"}
    return {
        "turns_cut_prompt": generate(
            "of x|xy|z behind the prefix, the prompt loses the oldest: x",
            {"prompt": "xxyz", "completion": "z"},
            [0, 8, 6, 6, 1],
            [no, no, no, 6, 1],
            max_length=5,
        ),
        "turns_cut_completion": generate(
            "no prompt left: the completion loses its last, eos too",
            long,
            [0, 6, 6, 6],
            [no, 6, 6, 6],
            max_length=4,
        ),
    }


def plain_text_vectors() -> dict[str, Vector]:
    no = -100
    return {
        "text": generate("all tokens are targets", {"text": "xyz"}, [0, 8, 6, 1], [no, 8, 6, 1]),
        "text_bare": generate(
            "the first target is unshifted: nothing predicts it",
            {"text": "zx"},
            [6, 4],
            [6, 4],
            prefix_ids=[],
            eos_token_id=None,
        ),
        "text_one_token": refused(
            generate(
                "nothing to predict from", {"text": "x"}, [], [], prefix_ids=[], eos_token_id=None
            )
        ),
        "token_out_of_vocabulary": refused(
            {**generate("id 9 of 9", {"text": "x\n"}, [], []), "vocab_size": 9}
        ),
    }


def chat_vectors() -> dict[str, Vector]:
    no = -100
    talk = chat(("user", "x"), ("assistant", "y"), ("user", "z"), ("assistant", "xy"))
    ids = [0, 2, 4, 3, 5, 1, 2, 6, 3, 8, 1]
    return {
        "messages": generate(
            "loss on the last answer; bos and eos come from the template",
            talk,
            ids,
            [no] * 9 + [8, 1],
            chat_template=CHAT,
        ),
        "messages_cut": generate(
            "the template's bos is kept like a prefix",
            talk,
            [0, 6, 3, 8, 1],
            [no, no, no, 8, 1],
            chat_template=CHAT,
            max_length=5,
        ),
        "messages_generation": generate(
            "generation tags mark, they write nothing",
            talk,
            ids,
            [no] * 9 + [8, 1],
            chat_template=MARKED,
        ),
        "messages_clock": generate(
            "it is always 1 January 2026",
            talk,
            ids,
            [no] * 9 + [8, 1],
            chat_template=CLOCK,
        ),
        "text_broken_template": generate(
            "a row without messages needs no template",
            {"text": "xyz"},
            [0, 8, 6, 1],
            [no, 8, 6, 1],
            chat_template="{% broken",
        ),
        "messages_broken_template": refused(
            generate("not a template", talk, [], [], chat_template="{% broken")
        ),
        "messages_huge": refused(
            generate("bounded", talk, [], [], chat_template="{{ 'x' * 10**9 }}")
        ),
        "messages_no_template": refused(generate("the model has none", talk, [], [])),
        "messages_fickle": refused(
            generate("the prompt is no prefix of the whole", talk, [], [], chat_template=FICKLE)
        ),
        "messages_raise": refused(
            generate(
                "the template refuses", talk, [], [], chat_template="{{ raise_exception('no') }}"
            )
        ),
        "messages_sandbox": refused(
            generate("no way out", talk, [], [], chat_template="{{ ''.__class__.__mro__ }}")
        ),
    }


def render() -> dict[Path, str]:
    vectors = {**classification_vectors(), **causal_vectors(), **chat_vectors()}
    return {
        FOLDER / f"{name}.json": json.dumps(vector, ensure_ascii=True, separators=(",", ":")) + "\n"
        for name, vector in vectors.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail on a difference")
    check = parser.parse_args().check
    files = render()
    found = set(FOLDER.glob("*.json"))
    stale = sorted(found - set(files))
    changed = sorted(
        p for p, content in files.items() if p not in found or p.read_text() != content
    )
    if not check:
        FOLDER.mkdir(parents=True, exist_ok=True)
        for path in stale:
            path.unlink()
        for path in changed:
            path.write_text(files[path])
    for path in (*stale, *changed):
        print(f"{'differs' if check else 'wrote'}: {path.relative_to(FOLDER.parent)}")
    return int(check and bool(stale or changed))


if __name__ == "__main__":
    sys.exit(main())
