/* The question of patch and localize: two prompts of equal length and a metric. */
#ifndef ENGRAM_PAIR_H
#define ENGRAM_PAIR_H

#include "input.h"
#include "look.h"
#include "probes/patch.h"

struct pair {
    struct input clean, corrupt;
    bool denoise;
    struct metric metric;    /* lists in the look's arena */
    struct patch_pair one;   /* the same, as probes take it */
};

/* Fill from the look's request; refuses what is served later (pairs, metrics, multi "sequence"). */
bool pair_read(struct pair *p, struct look *l, struct err *e) MUST_CHECK;
void pair_release(struct pair *p);

/* A patch_request of that pair on the look's view; site and axis are the caller's. */
struct patch_request pair_request(const struct pair *p, const struct look *l);
/* "tokens", "answer", "foil", "baseline" into o; of messages "rendered" and "template". */
void pair_echo(const struct pair *p, const struct look *l, const struct patch_grid *g, jout *o);

#endif
