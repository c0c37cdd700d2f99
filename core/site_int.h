/* Shared by the two files of site names: site.c knows the right ones, site_near.c guesses what a wrong
 * one was meant to be. */
#ifndef ENGRAM_SITE_INT_H
#define ENGRAM_SITE_INT_H

#include "site.h"

struct hints {
    enum hook hook[5];
    size_t n;
};
/* All hooks of one scope that this model has (of both, of any model, where a is NULL) that are nearest
 * to what was typed. */
struct hints hints_for(const struct arch *a, enum hook_scope scope, const char *typed);
/* ERR_INVALID: `unknown <what> "<typed>"`, and what it may stand for, each with `prefix` before it. */
bool hints_say(const struct hints *h, const char *what, const char *typed, const char *prefix, struct err *e);

#endif
