"""The tiny model's tokenizer: byte-level BPE cut like Qwen3.5's, 2,048 ids."""

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from ...weights.gguf.text import PATTERN

VOCAB_SIZE = 2048
BEFORE_NAMES = r" (?=\p{Lu})|[^\s\p{L}\p{M}\p{N}](?=\p{L})"
# the order of the real vocabulary, which also puts them behind the learned ids
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
# added, yet not special: a decoder that skips special tokens still shows them
MARKS = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>",
    "</tool_response>",
)  # fmt: skip


def build_tokenizer(texts):
    """Learn the merges from `texts`; a Tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    cuts = [
        pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    # NOTE: no merge has a space before a capital or a mark before a letter, so that a
    # name is the same tokens wherever it stands: a small model copies tokens, and does
    # not learn of each name what else it may look like.
    apart = pre_tokenizers.Split(Regex(BEFORE_NAMES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([apart, *cuts])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - len(MARKS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    tokenizer.add_special_tokens([added(t, True) for t in SPECIAL])
    tokenizer.add_tokens([added(t, False) for t in MARKS])
    return tokenizer


def added(text, special):
    return AddedToken(text, special=special, normalized=False)


def token_sizes(tokenizer):
    """How many bytes of text each id stands for: [vocab] ints, 0 for special ids."""
    # the byte-level alphabet writes one character a byte
    size = tokenizer.get_vocab_size()
    names = [tokenizer.id_to_token(i) for i in range(size)]
    return [0 if name in SPECIAL else len(name) for name in names]
