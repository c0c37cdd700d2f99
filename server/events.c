#include "events.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "problem_openai.h"

enum { WRITE_BYTES = 8 * 1024 };

void events_init(struct events *v, size_t cap)
{
    assert(cap > 0);
    *v = (struct events){.cap = cap, .first = 1, .next = 1};
}

void events_release(struct events *v)
{
    for (size_t i = 0; v->ring && i < v->cap; i++) mem_drop(v->ring[i].data);
    mem_drop(v->ring);
    v->ring = NULL;
}

void events_add(struct events *v, enum event_kind kind, const char *name, const char *data)
{
    if (!v->ring) v->ring = mem_new(v->cap * sizeof *v->ring);
    struct event *e = &v->ring[(size_t)v->next % v->cap];
    mem_drop(e->data);
    *e = (struct event){.kind = kind, .data = data ? mem_text(data) : NULL};
    (void)snprintf(e->name, sizeof e->name, "%s", name);
    v->next++;
    if (v->next - v->first > (int64_t)v->cap) v->first++;
}

static void event_open(struct buf *out, int64_t id, const char *name)
{
    if (id > 0) buf_printf(out, "id: %" PRId64 "\n", id);
    buf_printf(out, "event: %s\ndata: ", name);
}

/* data is one line of JSON; a stray line break would end the event, so it opens a data line. */
void event_write(struct buf *out, int64_t id, const char *name, const char *data, size_t len)
{
    event_open(out, id, name);
    for (const char *p = data, *end = data + len; p < end;) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        buf_put(out, p, (size_t)((nl ? nl : end) - p));
        if (!nl) break;
        buf_text(out, "\ndata: ");
        p = nl + 1;
    }
    buf_text(out, EVENT_CLOSE);
}

static void bare_write(struct buf *out, const char *data)
{
    buf_printf(out, "data: %s\n\n", data);
}

static bool is_last(const struct event *e)
{
    return e->kind == EVENT_RESULT || e->kind == EVENT_ERROR;
}

static void write_bare(const struct event *e, const struct buf *body, struct buf *out)
{
    struct buf error = {0};
    if (e->kind == EVENT_EMITTED) bare_write(out, e->data);
    if (e->kind == EVENT_RESULT) bare_write(out, "[DONE]");
    if (e->kind != EVENT_ERROR) return;
    (void)problem_openai_again(body->data ? body->data : "", body->len, &error);
    bare_write(out, error.failed ? "{\"error\":{}}" : error.data);
    buf_release(&error);
}

static enum events_state write_one(const struct event *e, int64_t id, enum audience who, const struct buf *body,
                                   struct buf *out)
{
    if (who == AUDIENCE_BARE) {
        write_bare(e, body, out);
        return is_last(e) ? EVENTS_END : EVENTS_WROTE;
    }
    bool quiet = e->kind == EVENT_STATE || e->kind == EVENT_PROGRESS;
    if (quiet && who == AUDIENCE_STREAM) return EVENTS_WROTE;
    const char *name = e->kind == EVENT_RESULT && who == AUDIENCE_STREAM ? "done" : e->name;
    if (is_last(e)) event_open(out, id, name);
    else event_write(out, id, name, e->data, strlen(e->data));
    return is_last(e) ? EVENTS_BODY : EVENTS_WROTE;
}

enum events_state events_write(const struct events *v, enum audience who, const struct buf *body,
                               int64_t *after, struct buf *out)
{
    static const char missed[] = "{\"error\":{\"message\":\"the stream was read too slowly\","
                                 "\"type\":\"server_error\",\"param\":null,\"code\":null}}";
    static const char reset[] = "{\"reason\":\"events were missed: read the job\"}";
    if (*after < v->first - 1 || *after >= v->next) {
        if (who == AUDIENCE_BARE) bare_write(out, missed);
        else event_write(out, 0, "reset", reset, sizeof reset - 1);
        return EVENTS_END;
    }
    size_t before = out->len;
    while (*after + 1 < v->next && out->len - before < WRITE_BYTES) {
        int64_t id = ++*after;
        enum events_state s = write_one(&v->ring[(size_t)id % v->cap], id, who, body, out);
        if (s != EVENTS_WROTE) return s;
    }
    if (out->len > before) return EVENTS_WROTE;
    bool over = v->next > v->first && is_last(&v->ring[(size_t)(v->next - 1) % v->cap]);
    return over ? EVENTS_END : EVENTS_WAIT;
}
