#include "log.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "quote.h"

struct log {
    enum log_level least;
};

static const char *const words[] = {
    [LOG_LEVEL_DEBUG] = "debug", [LOG_LEVEL_INFO] = "info",
    [LOG_LEVEL_WARN] = "warn",   [LOG_LEVEL_ERROR] = "error",
};
enum { N_LEVELS = sizeof words / sizeof *words };
static_assert(N_LEVELS == LOG_LEVEL_ERROR + 1, "one word per level");

struct log *log_new(const char *level, struct err *e)
{
    for (int i = 0; i < N_LEVELS; i++)
        if (strcmp(level, words[i]) == 0) {
            struct log *l = mem_new(sizeof *l);
            l->least = (enum log_level)i;
            return l;
        }
    (void)err_set(e, ERR_INVALID, "--log-level is debug, info, warn or error, not %s", level);
    return NULL;
}

void log_free(struct log *l) { mem_drop(l); }

static void open_line(struct buf *b, enum log_level level, const char *event)
{
    int64_t now = wall_us();
    time_t s = (time_t)(now / US_PER_S);
    struct tm t;
    char day[32];
    (void)gmtime_r(&s, &t);
    (void)strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &t);
    buf_printf(b, "{\"time\":\"%s.%06dZ\",\"level\":\"%s\",\"event\":\"%s\"", day,
               (int)(now % US_PER_S), words[level], event);
}

static void close_line(struct buf *b)
{
    buf_text(b, "}\n");
    if (b->data && !b->failed) {
        ssize_t n = write(STDERR_FILENO, b->data, b->len);
        (void)n; /* a log that cannot be written has nowhere to complain */
    }
    buf_release(b);
}

void log_say(struct log *l, enum log_level level, const char *event, const char *fmt, ...)
{
    if (level < l->least) return;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct buf b = {0};
    open_line(&b, level, event);
    buf_text(&b, ",\"message\":");
    quote_bytes(&b, text, strlen(text));
    close_line(&b);
}

void log_request(struct log *l, enum log_level level, const struct log_request *r)
{
    if (level < l->least) return;
    struct buf b = {0};
    open_line(&b, level, "request");
    buf_printf(&b, ",\"id\":\"%s\",\"by\":", r->id);
    quote(&b, r->by);
    buf_text(&b, ",\"method\":");
    quote_bytes(&b, r->method, strnlen(r->method, 16));
    buf_text(&b, ",\"route\":");
    quote(&b, r->route);
    buf_printf(&b, ",\"status\":%d,\"ms\":%.3f,\"bytes\":%zu", r->status,
               (double)r->took_us / 1000.0, r->bytes);
    close_line(&b);
}
