/* Added tokens: cut out of the text before anything else looks at it.
 *
 * The leftmost match wins, and there the longest spelling. A token may insist on standing alone
 * between non-word characters (single_word) and may swallow white space on its left or right
 * (lstrip, rstrip). Control tokens (`special`) are cut only where the text is parsed for them;
 * elsewhere their spelling is plain text, and is passed over as one: nothing starts inside it.
 *
 * A text may be made of sections, some parsed and some not (a rendered conversation: the
 * template's own words, and what people wrote). A match never crosses a border between sections.
 *
 * A struct special_set is immutable after special_set_finish. Spellings are borrowed.
 */
#ifndef ENGRAM_SPECIAL_H
#define ENGRAM_SPECIAL_H

#include "core/base/mem.h"

struct special {
    const char *text;
    uint32_t len, id;
    bool special, single_word, lstrip, rstrip;
};
struct special_set {
    struct special *token; /* sorted by spelling: the order is the search tree */
    size_t n;
    bool any_special;
    bool starts[256];        /* first bytes of spellings */
    uint64_t follows[1024];  /* and which two they may begin with, a bit each; a spelling of one byte
                              * may be followed by any */
};
bool special_set_init(struct special_set *s, size_t max, struct err *e) MUST_CHECK;
void special_set_release(struct special_set *s);
void special_set_add(struct special_set *s, const struct special *token); /* "" is ignored */
void special_set_finish(struct special_set *s);

struct section { /* of a text; the last one ends with it */
    size_t end;
    bool parse_special;
};

/* Where the pieces go, in order: text between tokens (never empty), and tokens. */
struct special_sink {
    bool (*text)(void *context, const char *text, size_t len, size_t at, struct err *e);
    bool (*token)(void *context, uint32_t id, struct err *e);
    void *context;
};
/* Cut the text, whose first byte is at offset `at` of what the sections divide. */
bool special_cut(const struct special_set *s, const char *text, size_t len,
                 const struct section *sections, size_t at, const struct special_sink *sink,
                 struct err *e) MUST_CHECK;

/* Is a spelling one that families use to end a turn or a text? */
bool special_ends_generation(const char *text, size_t len);

#endif
