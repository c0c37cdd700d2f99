/* A stored probe: readouts of one sweep that were kept, with all they need to be applied again.
 *
 *     {"kind","labels":[…],"pos","likely","base","described","view","members":[
 *        {"site","head"?,"sigma":[…],"mean":[…],"scale":[…],"w":[…],"b":[…],"w1"?,"b1"?,"features"?}…]}
 *
 * likely: the scores are log odds or logits, so that they give probabilities. base is the digest of the model's base and described the hash of all else its file says, the tokenizer included:
 * another model's activations mean other things, so a probe is refused there. Numbers are float64 with the digits that
 * read back as the same.
 *
 * Ownership: probe_open reads into the caller's arena but for the readouts, which probe_release frees. Any thread.
 */
#ifndef ENGRAM_API_PROBE_H
#define ENGRAM_API_PROBE_H

#include "look.h"
#include "probes/readout_sweep.h"

struct probe_member {
    struct site site;
    bool by_head;
    uint32_t head;
    struct readout *readout;
    double *sigma; /* [outputs]; in the arena */
};

struct probe {
    struct artefact_row row;
    const struct json *content;
    const struct json *labels; /* a list, in the order of classes */
    uint32_t classes;
    struct probe_member *at;
    size_t n;
};
/* By id, or the newest of that name of the model. Refused (ERR_CONFLICT) where the model is another. */
bool probe_open(struct probe *p, struct ledger_reader *r, const struct served *s, const char *name, const char *field, struct arena *a,
                struct err *e) MUST_CHECK;
void probe_release(struct probe *p);
/* The member that reads this site, and this head of it. NULL when there is none. */
const struct probe_member *probe_at(const struct probe *p, struct site site, bool by_head, uint32_t head);

/* A member's object. */
void probe_write_member(struct buf *out, struct site site, bool by_head, uint32_t head, const struct readout *r, const double *sigma);

/* write.from.probe: σ·θ or θ of the readouts at the heads that are written (steering.h's kin). pattern: sites of which the
 * probe reads nothing are left as they are. */
struct tapping;
struct trace_write;
bool probe_source(struct look *l, struct tapping *t, struct call *c, const struct json *from, const char *field, bool pattern,
                  struct trace_write *w, struct err *e) MUST_CHECK;

#endif
