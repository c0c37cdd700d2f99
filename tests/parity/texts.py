"""Texts on which logits are compared: from one token to some three hundred, of every kind."""

PROSE = """The lighthouse stood on the last rock before the open sea. Every evening, a little before
sunset, the keeper climbed the one hundred and twenty-two steps, wound the clockwork that turned the
lens, trimmed the wick and lit the lamp. On clear nights the beam could be seen from the harbour, eighteen
miles away, and the fishermen said that they could tell the hour by it. On other nights there was only fog,
and then he rang the bell by hand, once every ten seconds, until the morning. He kept a book in which he
wrote down the wind, the height of the waves, the ships that passed and the birds that struck the glass. In
the autumn of his fourteenth year on the rock he noticed that the numbers in the book had begun to repeat. The
same ship passed on the same day of the month; the same number of gulls lay on the gallery; the wind turned at
the same minute. At first he thought that he had become careless and was copying old pages without knowing it.
So he began a second book, and hid the first one under the floor, and at the end of the year he compared them
line by line. Nothing differed, except that in the second book one more ship was written down, a small one
with grey sails, that came on the third of November, did not answer his signal, and turned back towards"""

CODE_PYTHON = """def fibonacci(n):
    \"\"\"Return the first n Fibonacci numbers.\"\"\"
    a, b = 0, 1
    out = []
    for _ in range(n):
        out.append(a)
        a, b = b, a + b
    return"""

CODE_C = """#include <stdio.h>

int main(int argc, char **argv) {
\tfor (int i = 1; i < argc; i++)
\t\tprintf("%s%c", argv[i], i + 1 < argc ? ' ' : '\\n');
\treturn"""

CHAT = ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "What is the capital of Japan?<|im_end|>\n<|im_start|>assistant\n")
CHAT_TURNS = (CHAT + "The capital of Japan is Tokyo.<|im_end|>\n<|im_start|>user\nAnd of Italy?<|im_end|>\n"
              "<|im_start|>assistant\n")

TEXTS = [
    ("one token", "The"),
    ("one space", " "),
    ("one newline", "\n"),
    ("one special token", "<|im_start|>"),
    ("capital", "The capital of France is"),
    ("question", "Q: Who wrote the play Hamlet?\nA:"),
    ("dialogue", "\"I don't know,\" she said. \"They're all gone, aren't they?\" He"),
    ("list", "Monday, Tuesday, Wednesday, Thursday,"),
    ("repetition", "one two three one two three one two three one two"),
    ("capitals", "THE QUICK BROWN FOX JUMPS OVER THE LAZY"),
    ("python", CODE_PYTHON),
    ("c", CODE_C),
    ("json", '{"name": "engram", "layers": 30, "heads": [9, 3], "tied": true, "path":'),
    ("html", '<ul>\n  <li class="a">one</li>\n  <li class="b">two</li>\n'),
    ("sql", "SELECT branch, MAX(seq) FROM revisions WHERE model = ?1 GROUP"),
    ("chat", CHAT),
    ("chat, two turns", CHAT_TURNS),
    ("french and german", "Où est la bibliothèque ? Die Straße ist länger als"),
    ("chinese and japanese", "北京是中国的首都。東京は日本の"),
    ("cyrillic, greek, arabic", "Москва — столица России. Η Αθήνα είναι. القاهرة عاصمة"),
    ("emoji", "Great job! 🎉🎉 👩‍👩‍👧‍👦 🇫🇷 ❤️"),
    ("digits", "3.14159265358979323846264338327950288419716939937510582097494459"),
    ("arithmetic", "12 + 30 = 42\n7 * 8 = 56\n100 - 1 ="),
    ("spaces and tabs", "a    b\t\tc        d\n\n\n\n    e"),
    ("punctuation", "... --- !!! ??? ((([[[{{{<<<>>>}}}]]])))"),
    ("prose, a paragraph", PROSE[:620]),
    ("prose, about 300 tokens", PROSE),
]
