"""A real tokenizer of 128 entries: byte-level BPE over ASCII, other bytes become <unk>."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TINY_VOCAB = 128

# Each merge joins two entries that exist before it. "Ġ" is the byte-level form of a space.
_MERGES = (
    ("Ġ", "t"),
    ("h", "e"),
    ("Ġ", "a"),
    ("i", "n"),
    ("Ġt", "he"),
    ("r", "e"),
    ("o", "n"),
    ("e", "r"),
    ("Ġ", "s"),
    ("Ġ", "w"),
    ("o", "u"),
    ("n", "d"),
    ("a", "t"),
    ("i", "t"),
    ("e", "n"),
    ("Ġ", "b"),
    ("i", "s"),
    ("o", "r"),
    ("e", "s"),
    ("in", "g"),
    ("Ġa", "nd"),
    ("e", "d"),
    ("a", "l"),
    ("l", "l"),
    ("Ġ", "f"),
    ("Ġ", "o"),
)
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_CHAT_FAMILIES = ("llama", "qwen2", "qwen3", "gemma3", "smollm3")


@dataclass(frozen=True)
class TokenizerStyle:
    """The special tokens of one family, in the order of their ids, and what frames a text."""

    specials: tuple[str, ...]
    bos: str | None  # what starts a text (decoders), or the class token (encoders)
    eos: str | None
    pad: str | None
    encoder: bool  # frames a text as bos A eos, a pair as bos A eos [eos] B eos
    doubled: bool  # two separators between the texts of a pair (RoBERTa, MPNet)
    chat: bool

    @classmethod
    def of(cls, family: str) -> TokenizerStyle:
        """The style of `family`."""
        if family == "gpt2":
            end = "<|endoftext|>"
            return cls((end, "<unk>", "<mask>"), None, end, None, False, False, False)
        if family in ("roberta", "mpnet"):
            specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
            return cls(specials, "<s>", "</s>", "<pad>", True, True, False)
        if family in ("bert", "distilbert", "deberta-v2", "modernbert"):
            specials = ("[PAD]", "[CLS]", "[SEP]", "<unk>", "[MASK]")
            return cls(specials, "[CLS]", "[SEP]", "[PAD]", True, False, False)
        specials = ("<pad>", "<s>", "</s>", "<unk>", "<mask>")
        chat = family in _CHAT_FAMILIES
        return cls(specials, "<s>", "</s>", "<pad>", False, False, chat)

    def config_ids(self) -> dict[str, int | None]:
        """Token ids as the model's configuration names them."""
        return {
            "pad_token_id": self._id(self.pad),
            "bos_token_id": self._id(self.bos or self.eos),
            "eos_token_id": self._id(self.eos),
        }

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self.specials.index(token)


def write_tiny_tokenizer(directory: Path, style: TokenizerStyle) -> None:
    """Write tokenizer.json and tokenizer_config.json for `AutoTokenizer.from_pretrained`."""
    _tokenizer(style).save(str(directory / "tokenizer.json"))
    named: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "unk_token": "<unk>",
        "pad_token": style.pad,
        "bos_token": style.bos,
        "eos_token": style.eos,
        "mask_token": style.specials[-1],
    }
    if style.encoder:
        named |= {"cls_token": style.bos, "sep_token": style.eos}
    if style.chat:
        named["chat_template"] = _CHAT_TEMPLATE
    named = {key: value for key, value in named.items() if value is not None}
    (directory / "tokenizer_config.json").write_text(json.dumps(named, indent=2) + "\n")


def _tokenizer(style: TokenizerStyle) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab = _vocab(style.specials)
    model = models.BPE(vocab=vocab, merges=list(_MERGES), unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in style.specials])
    if style.bos is not None:
        tokenizer.post_processor = _template(style, vocab)
    return tokenizer


def _template(style: TokenizerStyle, vocab: dict[str, int]) -> Any:
    from tokenizers import processors

    bos, eos = style.bos, style.eos
    if style.encoder:
        middle = f"{eos} {eos}" if style.doubled else f"{eos}"
        single, pair = f"{bos} $A {eos}", f"{bos} $A {middle} $B:1 {eos}:1"
    else:
        single, pair = f"{bos} $A", f"{bos} $A $B:1"
    specials = [(token, vocab[token]) for token in (bos, eos) if token is not None]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=specials)


def _vocab(specials: tuple[str, ...]) -> dict[str, int]:
    printable = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    merged = ["".join(pair) for pair in _MERGES]
    entries = [*specials, *printable, "Ġ", "Ċ", *merged]
    entries += [f"<unused{i}>" for i in range(TINY_VOCAB - len(entries))]
    if len(entries) != TINY_VOCAB:
        raise AssertionError(f"{len(entries)} entries do not fill a vocabulary of {TINY_VOCAB}")
    return {entry: i for i, entry in enumerate(entries)}
