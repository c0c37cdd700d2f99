"""Texts on which tokenizers go wrong. Shared by make_tokenizer.py and the parity run.

`boundaries()` is every code point at which a class that the patterns test begins or ends, taken
from the installed `tokenizers` itself.
"""
import random

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

CODE_POINTS = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]

FIXED = [
    "Hello, world!",
    " leading",
    "trailing ",
    "  two  spaces  ",
    "I'm you're they'll we've I'd it's don't",
    "I'M YOU'RE THEY'LL WE'VE I'D IT'S DON'T",
    "'\u017F '\u017F 'S \u2019s",
    "a'b'c''d",
    "1234567890",
    "3.14159e-10",
    "2024-01-31T23:59:59Z",
    "x=1;y=22;z=333;w=4444",
    "\u0661\u0662\u0663 \u096A\u096B \uFF11\uFF12",
    "\xbd \xb2 \u2167 \u3007 \U0001D7D8\U0001D7D9",
    "\t\ttabs\tand\t spaces",
    "line\r\nline\r\n\r\nline\rline\n\n\n",
    " \n \n\n  \n   x",
    "\xa0nbsp\xa0\xa0x \u2003em\u3000ideographic\u180Emongolian\u200Bzero\u2060wj\uFEFFbom",
    "\x01\x04\x06\x13\x14\x16\x1d\x7f\x85control",
    "def f(x):\n    return x  # comment\n\n\nclass A:\n\tpass\n",
    "if (a && b || !c) { return x->y[3] << 2; } /* ok */",
    "<div class=\"x\">&amp;</div>",
    "{\"k\": [1, 2.5, null, true]}",
    "SELECT * FROM t WHERE a != 'b''c' -- x",
    "https://example.org/a/b?c=d&e=%20#f",
    "\\n \\\\ \\u0041",
    "e\u0301 \xe9 o\u0308\u0304 \u1E69 s\u0323\u0307 s\u0307\u0323 \uAC00 \u1100\u1161\u11A8 "
    "\u212B \u2126 \uFB01",
    "\u0301\u0301\u0301lone marks a\u0301\u0301\u0301\u0301b",
    "\u0628\u0650\u0633\u0652\u0645\u0650 \u0627\u0644\u0644\u0647",
    "\u05E9\u05DC\u05D5\u05DD \u05E2\u05D5\u05DC\u05DD\u200F\u202B mixed abc\u202C",
    "\u0928\u092E\u0938\u094D\u0924\u0947 \u0BA4\u0BAE\u0BBF\u0BB4\u0BCD",
    "\u4F60\u597D\uFF0C\u4E16\u754C\u3002\u3053\u3093\u306B\u3061\u306F\uC548\uB155\uD558"
    "\uC138\uC694",
    "\u0E2A\u0E27\u0E31\u0E2A\u0E14\u0E35 \u1019\u103C\u1014\u103A\u1019\u102C",
    "\U0001F468\u200D\U0001F469\u200D\U0001F467\u200D\U0001F466 \U0001F44D\U0001F3FD "
    "\U0001F1E9\U0001F1EA\U0001F1EB \u2764\uFE0F\u200D\U0001F525 1\uFE0F\u20E3",
    "\U0001F3F4\U000E0067\U000E0062\U000E0065\U000E006E\U000E0067\U000E007F \U0001F600"
    "\U0001F600\U0001F600",
    "\U00040000\U0007FFFF\U00080000\U000BFFFF\U000C0000\U000FFFFF\U00100000\U0010FFFF a"
    "\U00040000b",
    "\U00011DE0\U00011DE9 \U00016FF4 1\U00011DE01",
    "\U0001DF25\U00011F02\U00031350 a\U00010D40\U0001CCF0b",
    "\uFFFD\uFFFE\uFFFF\uE000\uF8FF\U000F0000",
    "z\u0351\u036B\u0343a\u0325\u0330l\u0334\u0321g\u0317\u0318o\u0328\u0321",
    "<|im_start|>system\nYou are<|im_end|>\n<|endoftext|>",
    "<|im_start|",
    "<|im_start|><|im_start|>",
    "x<|im_end|>y <|im_end|> z",
    "<repo_name>a<file_sep>b<filename>",
    "<|im_start|>  \n\n<|im_end|>",
    "<<|im_end|>>",
    "<|im_<|im_end|>end|>",
    "\u0120 \u0120hello \u010A",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "ABCdefGHI jklMNO camelCaseWord snake_case",
    "\u01C5\u02B0\u1F88 \u2C7C\uA69C\u10D0 \u1C90",
    "$100 \u20AC5 +3 -4 ~x ^y <=> |z|",
    "\u2014\u2026\u201Cquoted\u201D \xabx\xbb",
]


def boundaries():
    """Code points on either side of every change of class."""
    classes = ["\\p{L}", "\\p{N}", "\\s", "\\p{M}", "\\p{Lu}", "\\p{Ll}", "\\p{Lt}", "\\p{P}"]
    out = set()
    for pattern in classes:
        split, inside = Split(Regex(pattern), "removed"), []
        for k in range(0, len(CODE_POINTS), 4096):
            block = CODE_POINTS[k:k + 4096]
            kept = set("".join(p for p, _ in split.pre_tokenize_str("".join(map(chr, block)))))
            inside += [chr(c) not in kept for c in block]
        for i in range(1, len(inside)):
            if inside[i] != inside[i - 1]:
                out.update(CODE_POINTS[i - 1:i + 1])
    return sorted(out)


def runs(lengths=(2, 3, 7, 16, 17, 64, 200)):
    for unit in (" ", "\n", "\t", "\r\n", "0", "1234567890", "a", "!", "\u00A0", "\u3000", " \n", "\u0301",
                 "\U0001F600", "'s", "ab ", "\U00040000"):
        for n in lengths:
            yield unit * n if n % 2 else "x" + unit * n + "y"


def planes():
    rng = random.Random(17)
    for plane in range(17):
        pool = [c for c in CODE_POINTS if c >> 16 == plane]
        for _ in range(6):
            yield "".join(chr(c) for c in rng.sample(pool, 20))


def class_texts():
    """The boundary code points, some at a time, each between a letter and a digit and a blank."""
    points = boundaries()
    for k in range(0, len(points), 20):
        yield "".join(f"a{chr(c)}1 " for c in points[k:k + 20])


def texts():
    return FIXED + list(runs()) + list(runs((255, 1000, 5000))) + list(planes()) + list(class_texts())
