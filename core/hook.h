/* Hook points: where a forward (or backward) pass may be listened to or written into.
 *
 * The list is closed and documented (core/hook.def). A site is a hook of one layer, or of the model,
 * spelled as in TransformerLens: "blocks.5.attn.hook_z", "hook_embed". A tap is one listener: it
 * reads values out, or sets, adds to or scales them in place, for chosen positions and heads of one
 * sequence. A pass with no taps pays one comparison per hook.
 *
 *     set:   h ← (1−w)·h + w·src        add: h ← h + w·src        scale: h ← w·h        map: h ← f(h)
 *
 * A write changes what everything downstream reads. In a backward pass only reads fire, and the
 * data are gradients of the loss with respect to the value at that hook, as downstream reads it; the
 * writes of the forward pass then turn g, the gradient of what they made, into that of what they found
 * (taps_back): set (1−w)·g, add g, scale w·g, map as its owner says.
 *
 * Layout of tap data: [position][head][width], C order, over the tap's own lists; for SOURCE
 * hooks (the pattern) [head][position][width] with width = n_source, zero right of the diagonal.
 *
 * Ownership: taps borrow src, dst, pos and head from the caller for the life of the pass.
 */
#ifndef ENGRAM_HOOK_H
#define ENGRAM_HOOK_H

#include "arch.h"

enum hook {
#define HOOK(name, spelling, scope, axis, width, need, access, what) HOOK_##name,
#include "hook.def"
#undef HOOK
    HOOK_COUNT
};

enum hook_axis { AXIS_PLAIN, AXIS_QUERY, AXIS_KV, AXIS_SOURCE };
enum hook_scope { SCOPE_LAYER, SCOPE_MODEL };

struct hook_info {
    const char *spelling; /* "attn.hook_z", "hook_embed" */
    enum hook_scope scope;
    enum hook_axis axis;
    bool writable;
    const char *what;
};
const struct hook_info *hook_info(enum hook h);
/* Why a model of this description has no such hook; NULL when it has. */
const char *hook_absent(const struct arch *a, enum hook h);
/* Values per head (or per position, for PLAIN); 0 for SOURCE, whose width is the sequence. */
uint32_t hook_width(const struct arch *a, enum hook h);
/* Heads at that hook: 1 for PLAIN, H, or G. */
uint32_t hook_heads(const struct arch *a, enum hook h);

struct site {
    enum hook hook;
    uint32_t layer; /* 0 for hooks of the model */
};
/* "blocks.{l}." and the spelling, or the spelling of a hook of the model. Reading names: core/site.h. */
void site_text(struct site s, char out[64]);

enum tap_op { TAP_READ, TAP_SET, TAP_ADD, TAP_SCALE, TAP_MAP };

/* A write with parameters of its own, called once per position and head; not at SOURCE hooks. back: x is the
 * gradient; what the parameters' own are is the owner's to add up. */
struct tap_map {
    void *ctx;
    void (*forward)(void *ctx, uint32_t pos, uint32_t head, float *x, uint32_t n);
    void (*back)(void *ctx, uint32_t pos, uint32_t head, float *x, uint32_t n);
    const float *changed; /* the largest change so far, where the owner says it; or NULL */
};

struct tap {
    struct site site;
    enum tap_op op;
    uint32_t seq;          /* which sequence of the pass */
    bool every_pos;        /* all positions, generated ones included; pos is ignored */
    const uint32_t *pos;   /* ascending */
    size_t n_pos;
    const uint32_t *head;  /* NULL: all heads of the hook */
    size_t n_head;
    uint32_t block;        /* PLAIN hooks: heads are blocks of so many values, the last one shorter where it must; then src is
                            * whole or NULL. 0: they have no heads */
    uint32_t n_source;     /* SOURCE hooks: row length of src/dst */
    float weight;
    const float *src;      /* SET, ADD; NULL: zeros */
    size_t n_src_pos;      /* positions in src: as many as are written, or 1 for all */
    bool src_whole;        /* src is what a read of every position (or, of n_src_pos 1, of one for all) and every head gave:
                            * of it, those that are written */
    float *dst;            /* READ */
    const struct tap_map *map; /* MAP */
    size_t elements;       /* written so far */
    float max_change;      /* largest |after − before| so far */
};

struct taps {
    struct tap *tap;
    size_t n;
};

/* Is it the norm before attention, or a copy of the stream that one head reads? */
bool hook_of_ln1(enum hook h);
bool hook_of_head_input(enum hook h);

/* Any tap on that hook of that layer? */
bool taps_any(const struct taps *t, enum hook h, uint32_t layer);

/* Fire a PLAIN, QUERY or KV hook on consecutive rows of one sequence. data: row r at
 * data + r*stride, heads side by side. first_pos: position of row 0. n_heads as hook_heads. */
void taps_fire(const struct taps *t, struct site s, uint32_t seq, uint32_t first_pos,
               uint32_t n_rows, float *data, size_t stride, uint32_t n_heads, uint32_t width);
/* Take gradients at the same back through the writes, last to first. */
void taps_back(const struct taps *t, struct site s, uint32_t seq, uint32_t first_pos,
               uint32_t n_rows, float *data, size_t stride, uint32_t n_heads, uint32_t width);
/* Fire a SOURCE hook for one destination position and query head: the values row[first_key..n_key).
 * Those before first_key, and what lies right of the diagonal, are masked: they are not looked at,
 * read as `masked` and are not written. */
void taps_fire_source(const struct taps *t, struct site s, uint32_t seq, uint32_t pos, uint32_t head,
                      float *row, uint32_t first_key, uint32_t n_key, float masked);
/* Fire one head of a QUERY or KV hook whose vectors are made one head at a time: data [n_rows][width]. */
void taps_fire_head(const struct taps *t, struct site s, uint32_t seq, uint32_t first_pos, uint32_t n_rows,
                    uint32_t head, float *data, size_t stride, uint32_t n_heads, uint32_t width);
/* Any write at that hook of that layer? Does any tap there name this head? */
bool taps_write(const struct taps *t, enum hook h, uint32_t layer);
bool taps_head(const struct taps *t, enum hook h, uint32_t layer, uint32_t head);

#endif
