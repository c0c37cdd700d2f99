/* The committed reference models: a tiny model, its token sequences and every expected tensor. */
#ifndef ENGRAM_TEST_GOLDEN_H
#define ENGRAM_TEST_GOLDEN_H

#include "core/file/infile.h"
#include "core/base/json.h"
#include "core/model.h"
#include "core/session.h"
#include "core/file/tensor_list.h"
#include "core/view.h"

struct golden {
    const char *name;
    struct model *model;
    struct view *view;
    struct session *session;
    const struct json *expected; /* expected.json */
    struct infile file;
    struct tensor_list list;
    struct arena arena;
    uint32_t *ids[2];
    uint32_t n[2];
};

/* weights: a file below tests/golden/tiny/<name>, or NULL for the hub-style directory itself.
 * Fails the test on any error. */
void golden_open(struct golden *g, const char *name, const char *weights);
/* The same below tests/golden/families. */
void golden_open_family(struct golden *g, const char *name, const char *weights);
void golden_close(struct golden *g);
/* A JSON file of the tests, in the caller's arena. */
const struct json *golden_json(const char *path, struct arena *a);
/* An expected tensor as float32; NULL when absent. mem_drop it. */
float *golden_tensor(const struct golden *g, const char *name, size_t *n);
/* Rows and targets of the loss whose gradients are expected, their number, and its value. */
size_t golden_loss(const struct golden *g, uint32_t *rows, uint32_t *targets, double *value);
/* The larger of max |got − want| / max |want| and ‖got − want‖ / ‖want‖. 1 for an all-zero answer. */
double relative_error(const float *got, const float *want, size_t n);

/* Where a tensor's gradient lies in its group's. */
size_t group_offset(const struct model *m, size_t tensor);
/* The values of a tensor that is held as float32, as every tensor of a float32 file is. */
const float *held_floats(const struct view *v, size_t tensor);

/* Room for n floats, zeroed. mem_drop it. */
float *floats(size_t n);
/* Logits [V] at a position of a whole run that `taps` (or nobody) listen to. mem_drop them. */
float *logits_at(const struct golden *g, struct view *v, const uint32_t *ids, uint32_t n, uint32_t pos, struct taps *taps);

/* Memory for what a group of tests reads, made and released by these as the group's fixtures. */
extern struct arena golden_arena;
int golden_arena_init(void **state);
int golden_arena_release(void **state);

/* parent with `change` added to a tensor: a view of the caller's. */
struct view *view_plus(const struct golden *g, struct view *parent, size_t tensor, const float *change);

#define must(ok, e)                                                                                \
    do {                                                                                           \
        if (!(ok)) fail_msg("%s", (e).text);                                                       \
    } while (0)

#endif
