/* Reproducible random numbers: xoshiro256** seeded by splitmix64 (Blackman & Vigna). Plain memory,
 * one thread. The same seed gives the same numbers on every machine. */
#ifndef ENGRAM_RANDOM_H
#define ENGRAM_RANDOM_H

#include <stddef.h>
#include <stdint.h>

struct random {
    uint64_t s[4];
};
void random_init(struct random *r, uint64_t seed);
uint64_t random_u64(struct random *r);
double random_unit(struct random *r);                  /* [0, 1) with 53 bits */
/* Two of N(0, 1), by Box and Muller from two draws; and the first of them alone. */
void random_normals(struct random *r, double out[2]);
double random_normal(struct random *r);
uint64_t random_below(struct random *r, uint64_t n);   /* [0, n), unbiased; n > 0 */
void random_shuffle(struct random *r, size_t *v, size_t n);

#endif
