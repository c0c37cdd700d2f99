/* Localizer `head_scale`: LoFiT's first stage (arXiv 2406.01563). z' = (1 + A) ⊙ z with a vector A for every head, the
 * weights frozen, A trained to the data under an L1 penalty; a head's score is ‖A‖₂.
 *
 *     A ~ N(0, init_std)     Adam, lr falling to 0, gradients clipped to norm 1
 */
#include "localizer.h"

struct scaled {
    struct stream_params *a;
    struct fit *fit;
};

static struct fit_request request_of(const struct localizer_ask *q, struct stream_params *a)
{
    return (struct fit_request){.view = q->patch.view, .params = a, .example = q->example, .n = q->n_data * (q->couples ? 2 : 1),
                                .loss = q->couples ? FIT_DPO : FIT_CE, .task = 1, .lr = q->param[LOCALIZER_HEAD_SCALE_lr],
                                .l1 = q->param[LOCALIZER_HEAD_SCALE_l1], .clip = 1, .beta = q->param[LOCALIZER_HEAD_SCALE_dpo_beta],
                                .epochs = (uint32_t)q->param[LOCALIZER_HEAD_SCALE_epochs],
                                .batch = (uint32_t)q->param[LOCALIZER_HEAD_SCALE_batch], .seed = q->seed};
}

static struct stream_params *scales_new(const struct localizer_ask *q, struct err *e)
{
    return stream_params_new(&view_model(q->patch.view)->arch, HOOK_Z, STREAM_SCALE, STREAM_CHANNEL, NULL, 0, e);
}

/* A plan cannot fail: of a shape alone. */
static void plan(const struct localizer_ask *q, int threads, struct plan *p)
{
    struct err e = {0};
    const struct arch *arch = &view_model(q->patch.view)->arch;
    const size_t places = (size_t)arch->n_layers * arch->n_heads;
    struct stream_params *a = scales_new(q, &e);
    if (a) {
        const struct fit_request r = request_of(q, a);
        fit_plan(&r, threads, p);
    }
    stream_params_free(a);
    plan_add(p, NEED_TRAINING, plan_times(places, arch->d_head * (sizeof(float) + sizeof(double)) + 32));
}

static void close(void *state)
{
    struct scaled *x = state;
    if (!x) return;
    fit_free(x->fit);
    stream_params_free(x->a);
    mem_drop(x);
}

static void *open(const struct localizer_ask *q, struct err *e)
{
    struct scaled *x = mem_new(sizeof *x);
    x->a = scales_new(q, e);
    if (x->a) {
        stream_params_draw(x->a, q->param[LOCALIZER_HEAD_SCALE_init_std], q->seed);
        const struct fit_request r = request_of(q, x->a);
        x->fit = fit_new(&r, e);
    }
    if (x->fit) return x;
    close(x);
    return NULL;
}

static enum step step(void *state, struct session *s, struct err *e) { return fit_step(((struct scaled *)state)->fit, s, e); }

static void progress(const void *state, size_t *done, size_t *total)
{
    fit_progress(((const struct scaled *)state)->fit, done, total);
}

static double value(const void *state, size_t row, size_t unit)
{
    (void)row;
    return stream_unit_norm(((const struct scaled *)state)->a, unit);
}

static const struct stream_params *scales(const void *state) { return ((const struct scaled *)state)->a; }
static const double *losses(const void *state, size_t *n) { return fit_losses(((const struct scaled *)state)->fit, n); }

const struct localizer localizer_head_scale = {.plan = plan, .brief = true, .open = open, .step = step, .progress = progress, .close = close,
                                               .value = value, .flat = true, .scales = scales, .losses = losses};
