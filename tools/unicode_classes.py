#!/usr/bin/env python3
"""Measure how `tokenizers` classifies every code point and write the tables the tokenizer needs.

    python3 tools/unicode_classes.py          # rewrites core/unicode_*.def

Nothing here comes from a Unicode data file: the reference is the installed `tokenizers` itself,
asked code point by code point, because that is what token ids are compared with. It holds three
Unicode versions at once: its regular expressions (Oniguruma) see one, its Digits pre-tokenizer
(Rust's char::is_numeric) and the word test of added tokens (Rust's regex crate) see others.

  unicode_new.def   code points whose general category or white space differs between Oniguruma
                    and this machine's PCRE2, each with a stand-in: a code point of as many UTF-8
                    bytes that PCRE2 puts into the class Oniguruma has for the original.
  unicode_class.def what Oniguruma and Rust's is_numeric say of every code point, as ranges of flags.
  unicode_rust.def  the word code points of Rust, as a full list of ranges.
  unicode_nfc.def   for each normalisation form the code points that the reference treats as inert
                    starters and utf8proc does not: those with a combining class, a composition or
                    a decomposition younger than the reference's tables, and U+11A7, which
                    utf8proc swallows after a syllable.
  unicode_lower.def code points whose lower case differs between Rust and utf8proc.
"""
import ctypes
import ctypes.util
import os

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers
from tokenizers.pre_tokenizers import Digits, Split

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
CODE_POINTS = [c for c in range(1, 0x110000) if not 0xD800 <= c < 0xE000]
CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co "
              "Cn").split()
BLOCK = 4096


def onig_members(pattern):
    """The code points that one Oniguruma character class matches."""
    split, found = Split(Regex(pattern), "removed"), set()
    for k in range(0, len(CODE_POINTS), BLOCK):
        block = CODE_POINTS[k:k + BLOCK]
        kept = set("".join(p for p, _ in split.pre_tokenize_str("".join(map(chr, block)))))
        found.update(c for c in block if chr(c) not in kept)
    return found


def rust_numeric():
    digits, found = Digits(individual_digits=True), set()
    for k in range(0, len(CODE_POINTS), BLOCK):
        text = "".join(f"a{chr(c)}" for c in CODE_POINTS[k:k + BLOCK]) + "a"
        found.update(ord(p) for p, _ in digits.pre_tokenize_str(text) if len(p) == 1 and p != "a")
    return found


def rust_word():
    """Word characters: those that keep a single-word token from matching next to them."""
    tok = Tokenizer(models.BPE(vocab={}, merges=[], unk_token=None))
    tok.add_tokens([AddedToken("Q", single_word=True, normalized=False)])
    found = set()
    for k in range(0, len(CODE_POINTS), BLOCK):
        block = CODE_POINTS[k:k + BLOCK]
        for c, encoding in zip(block, tok.encode_batch([f"{chr(c)}Q" for c in block])):
            if not encoding.ids:
                found.add(c)
    return found | {ord("Q")}


class Pcre2:
    """One character class at a time, through the shared library the daemon links."""

    UTF, UCP = 0x00080000, 0x00020000

    def __init__(self):
        self.lib = lib = ctypes.CDLL(ctypes.util.find_library("pcre2-8"))
        for name in ("pcre2_compile_8", "pcre2_match_data_create_8", "pcre2_get_ovector_pointer_8"):
            getattr(lib, name).restype = ctypes.c_void_p
        lib.pcre2_get_ovector_pointer_8.restype = ctypes.POINTER(ctypes.c_size_t)

    def config(self, what):
        text = ctypes.create_string_buffer(64)
        self.lib.pcre2_config_8(what, text)
        return text.value.decode()

    def members(self, pattern):
        lib, size = self.lib, ctypes.c_size_t
        number, offset, raw = ctypes.c_int(), size(), pattern.encode()
        code = ctypes.c_void_p(lib.pcre2_compile_8(raw, size(len(raw)), self.UTF | self.UCP,
                                                   ctypes.byref(number), ctypes.byref(offset), None))
        assert code.value, pattern
        data = ctypes.c_void_p(lib.pcre2_match_data_create_8(1, None))
        ends, found = lib.pcre2_get_ovector_pointer_8(data), set()
        for k in range(0, len(CODE_POINTS), BLOCK):
            raw = "".join(map(chr, CODE_POINTS[k:k + BLOCK])).encode()
            at = 0
            while lib.pcre2_match_8(code, raw, size(len(raw)), size(at), 0x40000000 if at else 0,
                                    data, None) > 0:
                found.update(map(ord, raw[ends[0]:ends[1]].decode()))
                at = ends[1]
        return found


def classes(members):
    space = members(r"\s+")
    category = {c: name for name in CATEGORIES for c in members(r"\p{%s}+" % name)}
    return {c: (category[c], c in space) for c in CODE_POINTS}


def ranges(rows):
    """[(code point, value)] in order -> [(first, last, value)]."""
    out = []
    for c, value in rows:
        if out and out[-1][1] == c - 1 and out[-1][2] == value:
            out[-1][1] = c
        else:
            out.append([c, c, value])
    return out


def stand_ins(onig, pcre):
    """The last code point of each (class, byte length) on which both agree."""
    out = {}
    for c in CODE_POINTS:
        if onig[c] == pcre[c]:
            out[onig[c], len(chr(c).encode())] = c
    return out


FORMS = {"NFC": normalizers.NFC(), "NFD": normalizers.NFD(), "NFKC": normalizers.NFKC(), "NFKD": normalizers.NFKD()}


class Utf8proc:
    def __init__(self):
        self.lib, self.libc = ctypes.CDLL(ctypes.util.find_library("utf8proc")), ctypes.CDLL(None)
        for form in FORMS:
            getattr(self.lib, "utf8proc_" + form).restype = ctypes.c_void_p
        self.lib.utf8proc_version.restype = self.lib.utf8proc_unicode_version.restype = ctypes.c_char_p

    def normalise(self, form, text):
        p = getattr(self.lib, "utf8proc_" + form)(text.encode())
        raw = ctypes.string_at(p)
        self.libc.free(ctypes.c_void_p(p))
        return raw.decode()

    def lower(self, c):
        return chr(self.lib.utf8proc_tolower(c))


def form_cuts(proc, form):
    """Code points whose neighbourhood the two normalisers see differently."""
    contexts = ["{}", "a{}\u0301", "a\u0315{}", "a\u0327{}", "a{}\u0327", "{}\u0338", "\u1100{}",
                "\uac00{}", "a\u05b0{}\u3099", "\U00011935{}"]
    reference = FORMS[form].normalize_str
    return [c for c in CODE_POINTS
            if any(reference(t) != proc.normalise(form, t) for t in (x.format(chr(c)) for x in contexts))]


def class_rows(onig, numeric):
    """Ranges of equal flags; capitals and small letters in turn become one row."""
    names = {"Lu": "UPPER", "Lt": "UPPER", "Ll": "LOWER", "Lm": "OTHER", "Lo": "OTHER"}

    def flags(c):
        category, space = onig[c]
        name = names.get(category) or {"M": "MARK", "N": "NUMBER", "P": "PUNCTUATION"}.get(category[0])
        return " | ".join(x for x in (name, "SPACE" if space else None, "DIGIT" if c in numeric else None) if x)

    rows, i, out = ranges([(c, flags(c)) for c in CODE_POINTS]), 0, []
    rows = [r for r in rows if r[2]]
    while i < len(rows):
        k = i
        while (k + 1 < len(rows) and rows[k][0] == rows[k][1] and rows[k + 1][0] == rows[k + 1][1] == rows[k][0] + 1
               and rows[k + 1][2] == rows[i + (k + 1 - i) % 2][2]):
            k += 1
        if k - i >= 3:
            k -= (k - i + 1) % 2
            out.append(f"PAIRS(0x{rows[i][0]:05X}, 0x{rows[k][0]:05X}, {rows[i][2]}, {rows[i + 1][2]})")
            i = k + 1
        else:
            out.append(f"ROW(0x{rows[i][0]:05X}, 0x{rows[i][1]:05X}, {rows[i][2]})")
            i += 1
    return out


def packed(rows, width=110):
    lines = [""]
    for row in rows:
        if len(lines[-1]) + len(row) > width:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + row
    return lines


def write(name, head, lines):
    with open(os.path.join(ROOT, "core", "text", name), "w", encoding="ascii") as f:
        f.write(f"/* Written by tools/unicode_classes.py; do not edit. {head} */\n")
        f.write("\n".join(lines) + "\n")


def main():
    lib = Pcre2()
    versions = f"tokenizers {tokenizers.__version__}, PCRE2 {lib.config(11)}, its Unicode {lib.config(10)}"
    onig, pcre = classes(onig_members), classes(lib.members)
    stand = stand_ins(onig, pcre)
    differ = [(c, stand[onig[c], len(chr(c).encode())]) for c in CODE_POINTS if onig[c] != pcre[c]]
    write("unicode_new.def", f"{versions}.\n * {len(differ)} code points. ROW(first, last, stand-in)",
          [f"ROW(0x{a:05X}, 0x{b:05X}, 0x{v:05X})" for a, b, v in ranges(differ)])
    word = rust_word()
    rows = [f"WORD(0x{a:05X}, 0x{b:05X})" for a, b, _ in ranges([(c, 0) for c in sorted(word)])]
    write("unicode_rust.def", f"tokenizers {tokenizers.__version__}.\n * {len(word)} word code points."
          " WORD(first, last), in order", [" ".join(rows[k:k + 4]) for k in range(0, len(rows), 4)])
    write("unicode_class.def", f"tokenizers {tokenizers.__version__}.\n * ROW(first, last, flags);"
          " PAIRS(first, last, flags of the first, flags of the second), in turn", packed(class_rows(onig, rust_numeric())))
    proc, lines = Utf8proc(), []
    has = (f"tokenizers {tokenizers.__version__}, utf8proc {proc.lib.utf8proc_version().decode()}, "
           f"its Unicode {proc.lib.utf8proc_unicode_version().decode()}")
    for form in FORMS:
        cuts = form_cuts(proc, form)
        print(len(cuts), form, "cuts")
        lines += packed([f"{form}(0x{a:05X}, 0x{b:05X})" for a, b, _ in ranges([(c, 0) for c in cuts])])
    write("unicode_nfc.def", f"{has}.\n * FORM(first, last), in order", lines)
    lower, odd = normalizers.Lowercase().normalize_str, []
    for c in CODE_POINTS:
        if lower(chr(c)) != proc.lower(c):
            assert len(lower(chr(c))) == 1 or c == 0x130, hex(c)
            odd.append(f"ROW(0x{c:05X}, 0x{ord(lower(chr(c))[0]):05X})")
    write("unicode_lower.def", f"{has}.\n * ROW(code point, its lower case); U+0130 has a U+0307 after it", packed(odd))
    print(versions, "|", len(differ), "differ |", len(word), "word")


main()
