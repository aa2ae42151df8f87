"""Trains small SentencePiece models on text made here and writes them with the package's ids.

    pip install sentencepiece
    python tests/scripts/make_sentencepiece.py                        # tests/fixtures/sentencepiece
    python tests/scripts/make_sentencepiece.py --sweep 40 --out DIR   # models of random options, to compare more

Each NAME.model comes with NAME.jsonl: lines of [text, ids] or [text, ids, decoded text]. The fixtures hold 10,000 lines
in all. `cargo test -p vila-model --test sentencepiece` compares them; VILA_SENTENCEPIECE_DIR names another directory.
"""

import argparse
import io
import json
import random
from pathlib import Path

import sentencepiece as spm

HERE = Path(__file__).resolve().parent
SYMBOLS = ["<img>", "<sep>", "USER:", "ab", "abc", "▁x▁", "€uro", "ﬁ", "１２"]
CONTROLS = ["<mask>", "[CLS]"]
ENGLISH = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one "
    "you were all her she there would their we him been has when who will no more if out so up said what its about than "
    "into them can only other time new some could these two may first then do any like my now over such our man me even "
    "most made after also did many off before must well back through years where much your way down should because long "
    "each just state those people too mister little good world make very year still see own work men day get here old life"
).split()
RANGES = {
    "cyrillic": (0x0430, 0x044F), "greek": (0x03B1, 0x03C9), "arabic": (0x0627, 0x064A), "hebrew": (0x05D0, 0x05EA),
    "devanagari": (0x0905, 0x0939), "thai": (0x0E01, 0x0E2E), "kana": (0x3042, 0x3093), "hangul": (0xAC00, 0xAD00),
    "han": (0x4E00, 0x4E60), "latin": (0x00E0, 0x00FE),
}
ODD = [
    (0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x17F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF),
    (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1EFF), (0x2000, 0x206F), (0x2070, 0x209F),
    (0x20A0, 0x20CF), (0x2100, 0x214F), (0x2150, 0x218F), (0x2460, 0x24FF), (0x2580, 0x259F), (0x3000, 0x303F),
    (0x3040, 0x30FF), (0x3130, 0x318F), (0x3200, 0x33FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xFB00, 0xFB4F),
    (0xFB50, 0xFDFF), (0xFE30, 0xFEFF), (0xFF00, 0xFFEF), (0x1D400, 0x1D7FF), (0x1F300, 0x1F64F), (0x20000, 0x200FF),
    (0x00, 0x1F), (0xE000, 0xE0FF), (0xFFF0, 0xFFFD), (0x10FF00, 0x10FFFF),
]
SPACES = [" ", "  ", "\t", "\n", "\u00a0", "\u3000", "\u2009", "\u200b", "▁", "▁▁", "\r\n", " \u00a0 ", "\ufeff"]
SPECIAL = SYMBOLS + CONTROLS + ["<s>", "</s>", "<unk>", "<pad>", "<0x0A>", "<0x41>", "<", ">", "ab" * 3, "aaaaaaa", "====="]
SPECIAL += ["ﬃ", "①", "㍿", "ｶﾞ", "é", "e\u0301", "ǆ", "İ", "ß", "ẞ", "Ǆ", "\ufdfa", "각", "\u1100\u1161\u11a8", "👩‍👩‍👧", "🇩🇪"]


def words(rng):
    """A fixed lexicon for each script."""
    lexicon = {"english": ENGLISH}
    for script, (first, last) in RANGES.items():
        letters = [chr(point) for point in range(first, last + 1)]
        lexicon[script] = ["".join(rng.choices(letters, k=rng.randint(1, 6))) for _ in range(120)]
    return lexicon


def sentence(rng, lexicon):
    script = "english" if rng.random() < 0.5 else rng.choice(list(lexicon))
    parts = []
    for _ in range(rng.randint(1, 14)):
        pool = lexicon[script]
        word = pool[min(int(rng.expovariate(8 / len(pool))), len(pool) - 1)]
        if rng.random() < 0.12:
            word = word.capitalize() if rng.random() < 0.8 else word.upper()
        if rng.random() < 0.1:
            word = str(rng.choice([rng.randint(0, 9), rng.randint(10, 99999), 3.14, "1,000"]))
        if rng.random() < 0.15:
            word += rng.choice(".,;:!?")
        parts.append(word)
    return " ".join(parts)


def corpus(rng, lexicon, lines=4000):
    for _ in range(lines):
        line = sentence(rng, lexicon)
        if rng.random() < 0.05:
            line = line.replace(" ", rng.choice(["  ", "\t", "\u3000"]), 1)
        if rng.random() < 0.05:
            line += " " + rng.choice(SPECIAL[len(SYMBOLS):])
        yield line


def odd_text(rng, length):
    return "".join(chr(rng.randint(*rng.choice(ODD))) for _ in range(length))


def text(rng, lexicon):
    """One string to tokenize: plain, odd, or a mixture."""
    kind = rng.random()
    if kind < 0.25:
        return sentence(rng, lexicon)
    if kind < 0.4:
        return odd_text(rng, rng.randint(1, 16))
    if kind < 0.42:
        return "".join(rng.choices(SPACES, k=rng.randint(0, 6)))
    parts = []
    for _ in range(rng.randint(1, 6)):
        part = rng.random()
        if part < 0.35:
            parts.append(" ".join(sentence(rng, lexicon).split(" ")[: rng.randint(1, 4)]))
        elif part < 0.55:
            parts.append(rng.choice(SPECIAL))
        elif part < 0.75:
            parts.append(rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 5]))
        elif part < 0.85:
            parts.append(odd_text(rng, rng.randint(1, 4)))
        elif part < 0.95:
            parts.append(rng.choice("abc<>/s:x▁=. ") * rng.randint(1, 5))
        else:
            word = sentence(rng, lexicon)
            parts.append(word[rng.randint(0, len(word) - 1):])
    return "".join(parts)


def train(seed, options):
    rng = random.Random(seed)
    lexicon = words(rng)
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=corpus(rng, lexicon), model_writer=model, minloglevel=2, num_threads=2, hard_vocab_limit=False, **options
    )
    return model.getvalue(), lexicon


def write(out, name, seed, options, count):
    model, lexicon = train(seed, options)
    processor = spm.SentencePieceProcessor(model_proto=model)
    rng = random.Random(seed + 1)
    (out / f"{name}.model").write_bytes(model)
    with open(out / f"{name}.jsonl", "w", encoding="utf-8") as file:
        for index in range(count):
            string = text(rng, lexicon)
            ids = processor.encode(string)
            line = [string, ids] + ([processor.decode(ids)] if index % 4 == 0 else [])
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{name}: {processor.get_piece_size()} pieces, {len(model)} bytes, {count} strings")


FIXTURES = {
    "bpe-llama": dict(
        model_type="bpe", vocab_size=800, byte_fallback=True, normalization_rule_name="identity", split_digits=True,
        remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, character_coverage=0.98,
    ),
    "bpe-nfkc": dict(model_type="bpe", vocab_size=900, normalization_rule_name="nmt_nfkc", user_defined_symbols=SYMBOLS),
    "bpe-suffix": dict(
        model_type="bpe", vocab_size=600, treat_whitespace_as_suffix=True, normalization_rule_name="identity",
        control_symbols=CONTROLS, character_coverage=0.98,
    ),
    "unigram-nfkc-cf": dict(
        model_type="unigram", vocab_size=700, normalization_rule_name="nmt_nfkc_cf", character_coverage=0.98,
        user_defined_symbols=SYMBOLS, control_symbols=CONTROLS,
    ),
    "unigram-bytes": dict(
        model_type="unigram", vocab_size=900, byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False,
        user_defined_symbols=SYMBOLS[:4], character_coverage=0.98,
    ),
    "unigram-spaces": dict(
        model_type="unigram", vocab_size=600, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_by_whitespace=False, character_coverage=0.98, unk_id=3, bos_id=0, eos_id=1, pad_id=2,
    ),
}


def random_options(rng):
    return dict(
        model_type=rng.choice(["bpe", "bpe", "unigram", "unigram", "char", "word"]),
        vocab_size=rng.choice([1200, 1500, 3000]),
        normalization_rule_name=rng.choice(["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"]),
        add_dummy_prefix=rng.random() < 0.6,
        remove_extra_whitespaces=rng.random() < 0.6,
        split_digits=rng.random() < 0.5,
        split_by_whitespace=rng.random() < 0.7,
        split_by_unicode_script=rng.random() < 0.7,
        allow_whitespace_only_pieces=rng.random() < 0.4,
        byte_fallback=rng.random() < 0.5,
        treat_whitespace_as_suffix=rng.random() < 0.3,
        character_coverage=rng.choice([0.98, 0.985, 0.995, 1.0]),
        user_defined_symbols=rng.sample(SYMBOLS, rng.randint(0, len(SYMBOLS))),
        control_symbols=rng.sample(CONTROLS, rng.randint(0, len(CONTROLS))),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE.parent / "fixtures" / "sentencepiece")
    parser.add_argument("--sweep", type=int, help="number of models of random options, instead of the fixtures")
    parser.add_argument("--strings", type=int, default=5000, help="strings for each model of a sweep")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.sweep:
        for index in range(arguments.sweep):
            seed = arguments.seed * 1000 + index
            options = random_options(random.Random(seed))
            print(options)
            write(arguments.out, f"{options['model_type']}-{seed}", seed, options, arguments.strings)
        return
    for index, (name, options) in enumerate(FIXTURES.items()):
        write(arguments.out, name, index, options, 1667 if index < 4 else 1666)


if __name__ == "__main__":
    main()
