/* Parameters that live in the stream: vectors or numbers at a hook of chosen layers and heads, the weights
 * themselves untouched.
 *
 *     scale    h ← (1 + θ) ⊙ h             ∂/∂θ = Σ g ⊙ h           below: g ⊙ (1 + θ)
 *     offset   h ← h + θ                   ∂/∂θ = Σ g               below: g
 *     mask     h ← (1 − θ)·h + θ·h_src     ∂/∂θ = Σ g·(h_src − h)   below: (1 − θ)·g
 *
 * Scale and offset at hook_z are LoFiT's A and v (arXiv 2406.01563), the mask with one number a head is
 * desiderata-based component masking (arXiv 2307.03637); h_src is another prompt's value there, or zero. θ = 0 is
 * neutral in all three. Sums run over the positions of all sequences of a pass.
 *
 * A unit is a head of a layer, or a layer; it has one parameter, or one per channel. A hook without heads has one
 * head. At the written positions (all), heads that are no unit are not touched: their bits stay.
 *
 * stream_writes makes the taps of one pass, to be given to a run (forward only) or, with `keep`, to a tape
 * (core/train.h), whose backward pass adds to grad.
 *
 * Ownership: params own theta and grad. writes borrow params and the texts' sources. One thread.
 */
#ifndef ENGRAM_STREAM_H
#define ENGRAM_STREAM_H

#include "core/hook.h"
#include "core/plan.h"

enum stream_kind { STREAM_SCALE, STREAM_OFFSET, STREAM_MASK };
enum stream_grain { STREAM_CHANNEL, STREAM_HEAD, STREAM_LAYER }; /* a parameter for each of these */

struct stream_unit {
    uint32_t layer, head; /* STREAM_LAYER: head 0 stands for all */
};

struct stream_params {
    const struct arch *arch;
    enum stream_kind kind;
    enum stream_grain grain;
    enum hook hook;
    uint32_t heads, width; /* of the hook */
    uint32_t each;         /* parameters of a unit */
    uint32_t lowest;       /* layer with a unit */
    size_t n_units, n;     /* n_units · each */
    struct stream_unit *unit;
    uint32_t *slot;        /* [L][heads] number of the head's unit, or STREAM_NONE */
    uint32_t *head;        /* [L][heads] heads with a unit, ascending */
    uint32_t *n_head;      /* [L] */
    float *theta;          /* [n_units][each], zero at first */
    double *grad;          /* the same; added to by backward passes */
};
#define STREAM_NONE UINT32_MAX

/* unit NULL: all heads of all layers (all layers, of STREAM_LAYER). Units are distinct. */
struct stream_params *stream_params_new(const struct arch *a, enum hook h, enum stream_kind kind, enum stream_grain grain,
                                        const struct stream_unit *unit, size_t n_units, struct err *e) MUST_CHECK;
void stream_params_free(struct stream_params *p);
/* theta ~ N(0, std). */
void stream_params_draw(struct stream_params *p, double std, uint64_t seed);
double stream_unit_norm(const struct stream_params *p, size_t unit); /* ‖θ‖₂ of one unit */

struct stream_text {             /* one sequence of a pass, its number there being its place in the list */
    uint32_t n;                  /* positions */
    const float *const *source;  /* mask: [L] of each layer [n or 1][heads][width]; NULL: zero */
    uint32_t n_source;           /* n or 1 */
};

size_t stream_writes_bytes(const struct stream_params *p, size_t rows, size_t texts, bool keep);
struct stream_writes;
struct stream_writes *stream_writes_new(struct stream_params *p, const struct stream_text *text, size_t n, bool keep,
                                        struct err *e) MUST_CHECK;
void stream_writes_free(struct stream_writes *w);
struct taps *stream_writes_taps(struct stream_writes *w);

#endif
