#include "char_class.h"

#include <string.h>

enum { CODE_POINTS = 0x110000 };

static const struct range {
    uint32_t first, last;
    unsigned char flags, step; /* step 2: every other one, the rest are a row of their own */
} ranges[] = {
#define UPPER (CLASS_HEAD | CLASS_LETTER)
#define LOWER (CLASS_TAIL | CLASS_LETTER)
#define OTHER (CLASS_HEAD | CLASS_TAIL | CLASS_LETTER)
#define MARK (CLASS_HEAD | CLASS_TAIL)
#define NUMBER CLASS_NUMBER
#define PUNCTUATION CLASS_PUNCTUATION
#define SPACE CLASS_SPACE
#define DIGIT CLASS_DIGIT
#define ROW(first, last, flags) {first, last, flags, 1},
#define PAIRS(first, last, flags, then) {first, last, flags, 2}, {first + 1, last, then, 2},
#include "unicode_class.def"
#undef ROW
#undef PAIRS
};

unsigned char *char_class_new(struct err *e)
{
    unsigned char *c = mem_take(CODE_POINTS, 1, e);
    if (!c) return NULL;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        for (uint32_t at = ranges[i].first; at <= ranges[i].last; at += ranges[i].step)
            c[at] |= ranges[i].flags;
    c['\r'] |= CLASS_NEWLINE;
    c['\n'] |= CLASS_NEWLINE;
    return c;
}
