"""Tiny tokenizers of the kinds that vision-language models bring along, trained on a few sentences."""

import transformers as hf
from conftest import WORDS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

#: Text that the tokenizers know in whole words.
CORPUS = [
    "is this circle red or blue? is this circle green or yellow? is this square striped or dotted?",
    "is this square spotted or hatched? is the girl or the dog kicking the ball?",
    "is the boy or the person kicking the ball? is this person feeling happy or sad?",
    "is this person feeling angry or calm? is this a or b? You are a helpful assistant.",
    "user assistant USER: ASSISTANT: User: Assistant: model system Question: Answer:",
] * 3


def _fast(backend: Tokenizer, special: list[str], named: dict[str, str], bos: bool) -> hf.PreTrainedTokenizerFast:
    backend.add_special_tokens([token for token in (*special, *named.values()) if backend.token_to_id(token) is None])
    if bos:
        start = ("<s>", backend.token_to_id("<s>"))
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    words = hf.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=named,
    )
    words.add_special_tokens({"additional_special_tokens": special} if special else {})
    return words


BASE = ["<unk>", "<pad>", "<s>", "</s>"]


def byte_pairs(*special: str, bos: bool = True, **named: str) -> hf.PreTrainedTokenizerFast:
    """As Qwen's and OPT's: bytes, a word carries the space before it ("Ġred")."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=BASE, initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    return _fast(backend, list(special), named, bos)


def sentence_pieces(*special: str, bos: bool = True, prefix: bool = True, **named: str) -> hf.PreTrainedTokenizerFast:
    """As Llama's (a space is put before everything) or, without prefix, Gemma's: spaces are letters ("▁red")."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    steps = [normalizers.Prepend("▁")] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    # To be trained words have to be apart; afterwards there is no pre-tokenizer, as in the real ones.
    apart = [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Punctuation()]
    backend.pre_tokenizer = pre_tokenizers.Sequence(apart)
    alphabet = ["\n", *{letter for line in CORPUS for letter in line}]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=BASE, initial_alphabet=alphabet)
    backend.train_from_iterator(CORPUS, trainer)
    backend.pre_tokenizer = None
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return _fast(backend, list(special), named, bos)


def word_pieces(*special: str, bos: bool = True, **named: str) -> hf.PreTrainedTokenizerFast:
    """As BERT's: words and pieces of words ("strip", "##ed"), no spaces."""
    words = [*BASE, *dict.fromkeys(WORDS)]
    backend = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return _fast(backend, list(special), named, bos)
