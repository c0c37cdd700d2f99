#include "budget.h"

#include <assert.h>
#include <pthread.h>

struct budget {
    pthread_mutex_t lock;
    size_t limit;
    size_t held[2];          /* by holder; works': without scratch */
    struct lease *works;     /* all that hold something */
    _Atomic size_t overlays; /* of all views */
    _Atomic size_t answers;  /* of all answers, the program's share included */
};

static void lock(struct budget *b) { (void)pthread_mutex_lock(&b->lock); }
static void unlock(struct budget *b) { (void)pthread_mutex_unlock(&b->lock); }

struct budget *budget_new(size_t limit_bytes)
{
    struct budget *b = mem_new(sizeof *b);
    (void)pthread_mutex_init(&b->lock, NULL);
    b->limit = limit_bytes;
    return b;
}

void budget_free(struct budget *b)
{
    if (!b) return;
    assert(!b->works && !b->held[HOLDER_MODELS] && !atomic_load(&b->overlays) && !atomic_load(&b->answers));
    (void)pthread_mutex_destroy(&b->lock);
    mem_drop(b);
}

_Atomic size_t *budget_overlays(struct budget *b) { return &b->overlays; }
_Atomic size_t *budget_answers(struct budget *b) { return &b->answers; }

/* ---- sums (lock held) --------------------------------------------------------------------- */

static size_t most_scratch(const struct budget *b, size_t also)
{
    for (const struct lease *l = b->works; l; l = l->next)
        if (l->scratch > also) also = l->scratch;
    return also;
}

static size_t answers_above(size_t bytes) { return bytes > ANSWER_BYTES ? bytes - ANSWER_BYTES : 0; }

static void use(struct budget *b, struct budget_use *out)
{
    *out = (struct budget_use){.limit = b->limit, .program = PROGRAM_BYTES, .models = b->held[HOLDER_MODELS],
                               .views = atomic_load(&b->overlays),
                               .answers = answers_above(atomic_load(&b->answers)),
                               .works = plan_sum(b->held[HOLDER_WORKS], most_scratch(b, 0))};
}

static void link_work(struct budget *b, struct lease *l)
{
    l->next = b->works;
    if (l->next) l->next->previous = l;
    b->works = l;
}

static void unlink_work(struct budget *b, struct lease *l)
{
    if (l->next) l->next->previous = l->previous;
    if (l->previous) l->previous->next = l->next;
    else b->works = l->next;
}

/* ---- refusals ----------------------------------------------------------------------------- */

static bool refuse(enum err_code code, const struct plan *p, const struct budget_use *u, struct err *e)
{
    char needed[BYTES_TEXT], limit[BYTES_TEXT], program[BYTES_TEXT], models[BYTES_TEXT], views[BYTES_TEXT],
        answers[BYTES_TEXT], works[BYTES_TEXT];
    struct buf parts = {0};
    plan_text(p, &parts);
    (void)err_set(e, code, "%s of memory are needed (%s); the limit is %s, of which the program has %s, models %s, "
                  "views %s, answers %s and other works %s: %s", bytes_text(plan_total(p), needed), parts.data ? parts.data : "",
                  bytes_text(u->limit, limit), bytes_text(u->program, program), bytes_text(u->models, models),
                  bytes_text(u->views, views), bytes_text(u->answers, answers), bytes_text(u->works, works),
                  code == ERR_TOO_LARGE ? "it never fits" : "it fits when others have ended");
    buf_release(&parts);
    return false;
}

/* What stays however long one waits: works end, answers are read, and a model can be loaded in another's place. */
static size_t lasting(const struct budget_use *u, enum holder who)
{
    return who == HOLDER_MODELS ? u->program : plan_sum(u->program, plan_sum(u->models, u->views));
}

static size_t all_with(struct budget *b, const struct budget_use *u, size_t bytes, size_t scratch)
{
    size_t works = plan_sum(b->held[HOLDER_WORKS], most_scratch(b, scratch));
    return plan_sum(plan_sum(plan_sum(lasting(u, HOLDER_WORKS), u->answers), works), bytes);
}

/* ---- taking and giving -------------------------------------------------------------------- */

bool budget_take(struct budget *b, enum holder who, const struct plan *p, struct lease *out, struct err *e)
{
    size_t total = plan_total(p), scratch = p->bytes[NEED_SCRATCH], bytes = total - scratch;
    struct budget_use u;
    assert(!out->budget && (who == HOLDER_WORKS || !scratch));
    lock(b);
    use(b, &u);
    bool never = plan_sum(lasting(&u, who), total) > b->limit;
    bool ok = !never && all_with(b, &u, bytes, scratch) <= b->limit;
    if (ok) {
        *out = (struct lease){.budget = b, .holder = who, .bytes = bytes, .scratch = scratch};
        b->held[who] += bytes;
        if (who == HOLDER_WORKS) link_work(b, out);
    }
    unlock(b);
    return ok || refuse(never ? ERR_TOO_LARGE : ERR_NO_MEMORY, p, &u, e);
}

bool budget_take_answer(struct budget *b, size_t bytes, struct err *e)
{
    struct budget_use u;
    lock(b);
    atomic_fetch_add(&b->answers, bytes);
    use(b, &u);
    bool ok = !u.answers || all_with(b, &u, 0, 0) <= b->limit;
    if (!ok) atomic_fetch_sub(&b->answers, bytes);
    unlock(b);
    char text[BYTES_TEXT];
    return ok || err_set(e, ERR_NO_MEMORY, "an answer of %s does not fit beside what others hold now", bytes_text(bytes, text));
}

void lease_give(struct lease *l)
{
    struct budget *b = l->budget;
    if (!b) return;
    lock(b);
    b->held[l->holder] -= l->bytes;
    if (l->holder == HOLDER_WORKS) unlink_work(b, l);
    unlock(b);
    *l = (struct lease){0};
}

void budget_use(struct budget *b, struct budget_use *out)
{
    lock(b);
    use(b, out);
    unlock(b);
}
