/* The handlers behind the routes: one prototype per handler, nothing else.
 *
 * schema/routes.json names a handler per route; the generator looks for its prototype here (its
 * line must read `bool NAME(struct call *…` for a synchronous handler, `struct work *NAME(struct
 * call *…` for compute) and refuses a name it does not find. Synchronous handlers run on HTTP
 * threads: short indexed reads, no forward pass. Compute handlers check and prepare; see call.h.
 */
#ifndef ENGRAM_HANDLERS_H
#define ENGRAM_HANDLERS_H

#include "server/call.h"

/* Models and text: models.c, load.c, methods.c, text.c, generate.c */
bool api_models(struct call *c, struct reply *r, struct err *e);
struct work *api_model_load(struct call *c, struct err *e);
bool api_model_unload(struct call *c, struct reply *r, struct err *e);
bool api_hooks(struct call *c, struct reply *r, struct err *e);
bool api_methods(struct call *c, struct reply *r, struct err *e);
bool api_tokenize(struct call *c, struct reply *r, struct err *e);
struct work *api_generate(struct call *c, struct err *e);

/* OpenAI's protocol: openai_completions.c, openai_chat.c, openai_model.c */
struct work *api_completions(struct call *c, struct err *e);
struct work *api_chat(struct call *c, struct err *e);
bool api_model(struct call *c, struct reply *r, struct err *e);

/* Look: trace.c, patch.c, attribution.c, causal_trace.c, path_patch.c, localize.c, circuit.c, tuco.c */
struct work *api_trace(struct call *c, struct err *e);
struct work *api_patch(struct call *c, struct err *e);
struct work *api_attribution(struct call *c, struct err *e);
struct work *api_causal_trace(struct call *c, struct err *e);
struct work *api_path_patch(struct call *c, struct err *e);
struct work *api_localize(struct call *c, struct err *e);
struct work *api_circuit(struct call *c, struct err *e);
struct work *api_tuco(struct call *c, struct err *e);

/* Nouns: sets.c, regions.c */
struct work *api_set_add(struct call *c, struct err *e);
bool api_sets(struct call *c, struct reply *r, struct err *e);
bool api_set_get(struct call *c, struct reply *r, struct err *e);
struct work *api_region_add(struct call *c, struct err *e);
bool api_regions(struct call *c, struct reply *r, struct err *e);
bool api_region_get(struct call *c, struct reply *r, struct err *e);

/* Sparse autoencoders: saes.c, features.c */
struct work *api_sae_load(struct call *c, struct err *e);
bool api_saes(struct call *c, struct reply *r, struct err *e);
bool api_sae_unload(struct call *c, struct reply *r, struct err *e);
struct work *api_features(struct call *c, struct err *e);

/* Probes: probes.c, probes_get.c, probe_apply.c */
struct work *api_probes(struct call *c, struct err *e);
bool api_probe_list(struct call *c, struct reply *r, struct err *e);
bool api_probe_get(struct call *c, struct reply *r, struct err *e);
struct work *api_probe_apply(struct call *c, struct err *e);

/* Read out: lens.c, dla.c, attention.c */
struct work *api_lens(struct call *c, struct err *e);
struct work *api_dla(struct call *c, struct err *e);
struct work *api_attention(struct call *c, struct err *e);

/* Plans: recipes.c, recipe_run.c */
bool api_recipes(struct call *c, struct reply *r, struct err *e);
bool api_recipe_get(struct call *c, struct reply *r, struct err *e);
struct work *api_recipe_run(struct call *c, struct err *e);

/* Change: edits.c, rollback.c, edits_get.c */
struct work *api_edits(struct call *c, struct err *e);
struct work *api_rollback(struct call *c, struct err *e);
bool api_edit_get(struct call *c, struct reply *r, struct err *e);
bool api_delta_get(struct call *c, struct reply *r, struct err *e);

/* History: history.c, verify.c */
bool api_revisions(struct call *c, struct reply *r, struct err *e);
bool api_revision_get(struct call *c, struct reply *r, struct err *e);
bool api_branches(struct call *c, struct reply *r, struct err *e);
bool api_runs(struct call *c, struct reply *r, struct err *e);
bool api_run_get(struct call *c, struct reply *r, struct err *e);
struct work *api_verify(struct call *c, struct err *e); /* GET waits; POST starts a job */

/* Jobs: jobs.c. The event stream is the transport's own (SERVES_EVENTS). */
bool api_jobs(struct call *c, struct reply *r, struct err *e);
bool api_job_get(struct call *c, struct reply *r, struct err *e);
bool api_job_cancel(struct call *c, struct reply *r, struct err *e);

/* The daemon itself: health.c, static.c */
bool api_healthz(struct call *c, struct reply *r, struct err *e);
bool api_readyz(struct call *c, struct reply *r, struct err *e);
bool api_metrics(struct call *c, struct reply *r, struct err *e);
bool api_openapi(struct call *c, struct reply *r, struct err *e);
bool api_page(struct call *c, struct reply *r, struct err *e); /* "/" and the files it asks for */

#endif
