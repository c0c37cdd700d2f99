/* A set's rows: one JSON object a line, in canonical form; its hash is that of these bytes.
 *
 *     canonical line  =  the row's members in the order of SetRow (schema/types.json), no null among
 *                        them, no space between tokens, numbers with the fewest digits, "\n" at the end
 *
 * So the same rows in the same order have the same hash, however they were written. Two uses:
 *
 * set_reader takes lines as somebody sends them, checks each against SetRow and what it cannot say (ids
 * that repeat, clean without corrupt, spans that are none) and appends the canonical ones. A piece at a
 * time: 64 MiB take seconds. Errors name row and field, "rows[2].answer", and the line.
 *
 * set_rows iterates what was stored: opened by id or name through a ledger reader, its hash compared,
 * rows given one by one as validated JSON in the caller's arena; all, or those of one split.
 *
 * Ownership: both own their bytes. One thread at a time; server only.
 */
#ifndef ENGRAM_SET_ROWS_H
#define ENGRAM_SET_ROWS_H

#include "core/base/json.h"
#include "core/text/strmap.h"
#include "ledger/ledger.h"

enum { SET_ROWS_MOST = 1000000, SET_LINE_MOST = 1 << 20, SET_FIELDS_MOST = 32, SET_SPANS_MOST = 64 };

struct set_reader {
    struct buf in;      /* lines as they came */
    size_t at, line;    /* of in; the number of the line before it */
    struct buf out;     /* canonical lines */
    size_t rows;
    size_t count[SET_FIELDS_MOST]; /* rows that have the field, in SetRow's order */
    struct strmap ids, spans;
    struct arena names; /* of ids and spans */
    const char *span[SET_SPANS_MOST];
    size_t n_spans, n_strayed; /* subjects that do not occur in their row's plain text */
};
/* Takes in. */
bool set_reader_init(struct set_reader *r, struct buf *in, struct err *e) MUST_CHECK;
void set_reader_release(struct set_reader *r);
/* About `bytes` of lines; *more false after the last. */
bool set_reader_step(struct set_reader *r, size_t bytes, bool *more, struct err *e) MUST_CHECK;
/* {"rows","fields","spans"} */
void set_reader_summary(const struct set_reader *r, struct buf *out);

struct set_rows {
    struct artefact_row head;
    struct buf bytes;
    const char *split; /* only rows of it; NULL: all. The caller may set it before the first row */
    size_t at, n;      /* n: rows passed */
};
bool set_rows_open(struct set_rows *s, struct ledger_reader *r, const char *id_or_name, struct err *e) MUST_CHECK;
void set_rows_close(struct set_rows *s);
/* The next row, or NULL in *row after the last. */
bool set_rows_next(struct set_rows *s, struct arena *a, const struct json **row, struct err *e) MUST_CHECK;
/* The same as it is stored, without its end of line; false after the last. Regards no split. */
bool set_rows_line(struct set_rows *s, const char **line, size_t *len);

#endif
