/* What the files of the patch grid share: a grid in the making.
 *
 *     patch.c        the job: runs, sweep, metrics, one after the other
 *     patch_cells.c  which cells there are, in which turns, what each enters with and writes
 *     patch_fill.c   what is put in where that is not the source's value as it is
 *     patch_naive.c  a few cells once more, each by one whole run
 *
 * A turn (group) is cells whose rows fit the memory budget; cells of a turn are sorted as the sweep wants
 * them. Private to these files.
 */
#ifndef ENGRAM_PATCH_INT_H
#define ENGRAM_PATCH_INT_H

#include "patch.h"
#include "patch_fill.h"
#include "patch_naive.h"
#include "patch_runs.h"
#include "sweep.h"

enum kind { CELL_GRID, CELL_IDENTITY, CELL_FULL };

struct patch {
    struct patch_request q;
    struct patch_grid grid;
    struct patch_texts *texts;   /* [n_pairs] */
    struct means *means;         /* of PATCH_FROM_MEAN; it comes first */
    bool averaged;
    struct patch_runs *runs;
    bool ready, ran;             /* the runs are done; all pairs of them judged */
    size_t judged;
    struct patch_scores *scores; /* the grid's */
    double *values;              /* all of them */
    uint32_t *first_difference;
    double *reference;           /* [n_pairs][V] log-probabilities of the sources, for kl; or NULL */
    struct cell *cell;           /* grid cells by group and layer, checks with the first group */
    size_t n_cells;
    bool *listed;                /* [cells of a pair], or NULL: all are run */
    size_t *group, n_groups, next_group; /* group[g]: first cell; group[n_groups] the end */
    struct sweep_base *base;     /* [n_pairs] */
    struct cell_maker maker;
    struct sweep *sweep;
    bool swept;                  /* the group's cells are through the layers, their metrics are due */
    size_t n_evaluated, done;
    struct patch_naive *naive;   /* after the sweep; NULL before and where none is due */
    bool finished;
};

static inline struct view *patch_source_view(const struct patch_request *q) { return q->source ? q->source : q->view; }
static inline const struct arch *patch_arch(const struct patch *p) { return &view_model(p->q.view)->arch; }
static inline size_t patch_cells_of_pair(const struct patch_grid *g) { return (size_t)g->n_layers * g->n_heads * g->n_pos; }

bool patch_has_full_check(const struct patch_request *q);

/* The cells and their turns, of a grid whose sizes, bases and first differences are known. */
bool patch_plan_cells(struct patch *p, struct err *e) MUST_CHECK;
/* Rows of the largest turn. */
size_t patch_most_rows(const struct patch_request *q, uint32_t longest, size_t cells);
/* The rows a cell enters with, and what it writes in a layer: false for nothing. */
void patch_enter(const struct patch *p, const struct cell *c, float *x, float *z);
bool patch_write(const struct patch *p, const struct cell *c, uint32_t layer, struct tap *out);

/* The metrics [n][n_metrics] of final rows of one pair; norm_logit_diff left as the difference. */
bool patch_read(const struct patch *p, struct session *s, size_t pair, const float *x, size_t n, double *out,
                struct err *e) MUST_CHECK;

#endif
