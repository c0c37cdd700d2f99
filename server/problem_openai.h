/* A problem in the words of OpenAI's protocol, for the routes that speak it.
 *
 *     {"error":{"message":"model: …","type":"invalid_request_error","param":"model","code":"model_not_found"}}
 *
 * `message` is the problem's sentence behind the field to blame, `param` that field. Types and codes are that
 * protocol's where it has one. What we do not offer is the client's mistake there (400): its
 * clients ask again after a 5xx.
 *
 * Both functions append the object and return the status to answer with. Pure; any thread.
 */
#ifndef ENGRAM_PROBLEM_OPENAI_H
#define ENGRAM_PROBLEM_OPENAI_H

#include "problem.h"

int problem_openai(const struct problem *p, struct buf *out);
/* Of a problem that problem_write wrote: the body of a job that failed. */
int problem_openai_again(const char *body, size_t len, struct buf *out);

#endif
