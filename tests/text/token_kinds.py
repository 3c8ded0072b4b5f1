"""Small tokenizers of every kind, made by the libraries that others use, and texts to try them on."""

import io
import json
import zipfile
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

TEXTS = [
    "The quick brown fox jumps over the lazy dog. Don't they'll 12345 co-operate?",
    "Größe und Straße, schöne Grüße an alle Vögel!",
    "大きさは小さい。こんにちは、世界！",
    "我们所有人生而自由，在尊严和权利上一律平等。",
    "Все люди рождаются свободными и равными.",
    "नमस्ते दुनिया, यह एक छोटा वाक्य है।",
    "السلام عليكم ورحمة الله وبركاته",
    "สวัสดีชาวโลก ก็ได้ครับ",
    "안녕하세요 세계, 반갑습니다.",
    "naïve café résumé — “quotes” … ½ ﬁ ①",
    "def f(x):\n\treturn x ** 2  # two  spaces\r\n\r\n    indented",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 🙂",
    "",
    " ",
    "   leading and trailing   ",
    "e\u0301 combining, \u200bzero width, \ufeff mark, \x00 nul",
]


def byte_level() -> Backend:
    """GPT-2's kind, with an end, a mask that takes the space before it, and an ordinary added token."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("  ", normalized=False)])
    # Some tools forget to say that a token with a role is special.
    backend.add_tokens([AddedToken("<|pad|>", normalized=False)])
    return backend


def whole_words() -> Backend:
    """Byte-level with `ignore_merges`, as Llama 3: a piece that is in the vocabulary is that token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "</s>", *alphabet, "the", "Ġthe", "th"]
    backend = Backend(models.BPE({w: i for i, w in enumerate(words)}, [("t", "h")], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"</?s>|\s?\S+"), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


def metaspace() -> Backend:
    """Llama 2's kind: BPE with a mark for spaces and byte fallback; the first space is a part of the text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False, special_tokens=pieces)
    trained = Backend(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trained.train_from_iterator(TEXTS[:10], trainer)
    source = json.loads(trained.to_str())
    source["pre_tokenizer"] = None
    source["model"] |= {"byte_fallback": True, "unk_token": "<unk>", "fuse_unk": True}
    source["added_tokens"] = source["added_tokens"][:3]
    # A merge that would make the end of a text out of text.
    vocab = source["model"]["vocab"]
    vocab.setdefault("<", len(vocab))
    vocab.setdefault("/s>", len(vocab))
    source["model"]["merges"].append(["<", "/s>"])
    backend = Backend.from_str(json.dumps(source))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    return backend


def first_metaspace() -> Backend:
    """Newer Mistral's kind: only the very beginning of a text gets a mark for a space."""
    source = json.loads(metaspace().to_str())
    source["normalizer"] = None
    source["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return Backend.from_str(json.dumps(source))


def unigram() -> Backend:
    """T5's kind: Unigram, whose vocabulary holds the special tokens, and would find them in text."""
    backend = Backend(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, show_progress=False, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"
    )
    backend.train_from_iterator(TEXTS[:10], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return backend


def wordpiece() -> Backend:
    """BERT's kind, but cut at spaces alone, so that `[SEP]` reaches the model as one word of its vocabulary."""
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, show_progress=False, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return backend


KINDS = {
    "byte-level": (byte_level, {"eos_token": "<|endoftext|>", "mask_token": "<mask>", "pad_token": "<|pad|>"}),
    "whole words": (whole_words, {"bos_token": "<s>", "eos_token": "</s>"}),
    "metaspace": (metaspace, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "first metaspace": (first_metaspace, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "unigram": (unigram, {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}),
    "wordpiece": (
        wordpiece,
        {
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
        },
    ),
}


def train_sentencepiece(kind: str, **settings: object) -> bytes:
    """The bytes of a small SentencePiece model."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:10] * 4),
        model_writer=file,
        model_type=kind,
        vocab_size=620 if settings.get("byte_fallback") else 380,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        **settings,
    )
    return file.getvalue()


def declarations() -> list[str]:
    """The beginning of the Declaration of Human Rights in many languages; skips where the data is not beside us."""
    path = Path(__file__).parents[3] / "shared/data/udhr2/udhr2.zip"
    if not path.is_file():
        pytest.skip("the shared data is not beside this checkout")
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if not name.endswith("/"))[::3]
        return [archive.read(name)[:3000].decode("utf-8", "ignore") for name in names]
