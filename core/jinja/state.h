/* One rendering: its state, and what the files that evaluate share.
 *
 * Every function that can fail returns false after setting the error in r->e, which names r->line.
 * Values it makes live in r->arena. Each step is paid for: spend() before work that grows with its
 * input, take() for memory.
 */
#ifndef ENGRAM_JINJA_STATE_H
#define ENGRAM_JINJA_STATE_H

#include "jinja.h"
#include "node.h"

struct binding {
    struct text name;
    struct value value;
    struct binding *next;
};
struct scope {
    struct scope *parent;
    struct binding *first;
};
struct macro {
    const struct node *def;
    struct scope *home; /* where it was defined: what its names mean */
};
enum flow { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE };

struct run {
    struct arena arena;
    struct err *e;
    const struct jinja_input *in;
    struct scope *scope;
    struct sink *out;
    size_t steps; /* left */
    unsigned depth, line;
    enum flow flow;
};

/* ---- state.c: failing, paying, names ------------------------------------------------------------- */
/* ERR_UNSUPPORTED with the line. Always false. */
bool run_refuse(struct run *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
bool run_refuse_type(struct run *r, const char *what, const struct value *v); /* "what of a list" */
bool run_spend(struct run *r, size_t steps) MUST_CHECK;
bool run_spend_bytes(struct run *r, size_t bytes) MUST_CHECK;
/* So many bytes more than are in s, if all of it could still be kept: for what is written piece by piece. */
bool run_spend_on(struct run *r, const struct sink *s, size_t bytes) MUST_CHECK;
void *run_take(struct run *r, size_t count, size_t size) MUST_CHECK;
bool run_enter(struct run *r) MUST_CHECK; /* one level deeper; leave() on success */
static inline void run_leave(struct run *r) { r->depth--; }
bool scope_push(struct run *r, struct scope *parent) MUST_CHECK;
bool name_bind(struct run *r, struct text name, struct value v) MUST_CHECK; /* in r->scope */
bool name_find(struct run *r, struct text name, struct value *out) MUST_CHECK;

/* ---- text.c: texts and their origins ----------------------------------------------------------- */
bool text_is(struct text t, const char *s);
struct text text_part(struct text t, size_t from, size_t end);
int text_compare(struct text a, struct text b);
size_t text_characters(struct text t);
/* The byte where character n starts; t.len when there are fewer. */
size_t text_offset(struct text t, size_t n);
bool text_find(struct run *r, struct text t, struct text what, size_t from, size_t *at); /* at: SIZE_MAX */
bool text_join(struct run *r, struct text a, struct text b, struct value *out) MUST_CHECK;
/* chars: NULL for white space. */
bool text_strip(struct run *r, struct text t, const struct text *chars, bool left, bool right,
                struct value *out) MUST_CHECK;
enum text_case { CASE_UPPER, CASE_LOWER, CASE_CAPITAL, CASE_TITLE };
bool text_recase(struct run *r, struct text t, enum text_case how, struct value *out) MUST_CHECK;
/* most < 0: all. */
bool text_replace(struct run *r, struct text t, struct text old, struct text new, int64_t most,
                  struct value *out) MUST_CHECK;
void sink_text(struct sink *s, struct text t);
void sink_own(struct sink *s, const char *text); /* the template's words */
/* The whole content as a value; releases the sink. */
bool sink_value(struct run *r, struct sink *s, struct value *out) MUST_CHECK;

/* ---- operate.c: what operators do -------------------------------------------------------------- */
bool value_is_true(const struct value *v);
static inline bool is_text(const struct value *v) { return v->type == V_TEXT; }
bool value_is_number(const struct value *v); /* bools too */
bool value_equal(struct run *r, const struct value *a, const struct value *b, bool *out) MUST_CHECK;
bool value_contains(struct run *r, const struct value *in, const struct value *what, bool *out) MUST_CHECK;
bool value_compare(struct run *r, unsigned op, const struct value *a, const struct value *b, bool *out) MUST_CHECK;
bool value_arithmetic(struct run *r, unsigned op, const struct value *a, const struct value *b,
                struct value *out) MUST_CHECK;
bool value_negate(struct run *r, const struct value *v, struct value *out) MUST_CHECK;

/* ---- access.c: parts of values ----------------------------------------------------------------- */
/* What a `for` or a filter goes through, as a list; reads a STREAM. */
bool value_elements(struct run *r, const struct value *v, struct list **out) MUST_CHECK;
bool value_list(struct run *r, enum list_kind kind, size_t n, struct value *out) MUST_CHECK;
bool value_length(struct run *r, const struct value *v, size_t *out) MUST_CHECK;
const struct value *dict_find(struct run *r, const struct dict *d, const struct value *key); /* or NULL */
bool dict_put(struct run *r, struct dict *d, struct value key, struct value v) MUST_CHECK;
/* The `which` of each pair: 0 keys, 1 values, 2 both. */
bool dict_listed(struct run *r, const struct dict *d, int which, enum list_kind kind,
               struct value *out) MUST_CHECK;
bool value_attr(struct run *r, const struct value *of, struct text name, struct value *out) MUST_CHECK;
bool value_item(struct run *r, const struct value *of, const struct value *at, struct value *out) MUST_CHECK;
bool value_slice(struct run *r, const struct value *of, const struct value bound[3], struct value *out)
    MUST_CHECK;

/* ---- print.c: values as text ------------------------------------------------------------------- */
bool value_print(struct run *r, const struct value *v, struct sink *out) MUST_CHECK;     /* str(v) */
bool value_as_text(struct run *r, const struct value *v, struct text *out) MUST_CHECK;   /* str(v); no markup */
bool value_json(struct run *r, const struct value *v, int64_t indent, bool ascii, struct sink *out)
    MUST_CHECK;

/* ---- call.c: arguments, and the tables of what can be called ------------------------------------ */
enum { ARGUMENTS_MAX = 5 };
struct args {
    struct value *at;
    size_t n;
    struct binding *named;
};
struct callee {
    const char *name;
    const char *params; /* in order; "-": has no name, "*x": has only a name, "**": any names */
    unsigned least;     /* of these that must be given */
    bool (*call)(struct run *r, const struct value *self, const struct value *arg, struct value *out);
};
extern const struct callee jinja_filters[], jinja_tests[], jinja_text_methods[], jinja_dict_methods[], jinja_functions[];
const struct callee *callee_find(const struct callee *table, struct text name);
bool callee_call(struct run *r, const struct callee *c, const struct value *self, const struct args *args,
                 struct value *out) MUST_CHECK;
bool filter_call(struct run *r, struct text name, const struct value *self, const struct args *args,
                 struct value *out) MUST_CHECK;
bool test_call(struct run *r, struct text name, const struct value *self, const struct args *args,
               bool *out) MUST_CHECK;
/* Arguments as a callee's own: a text, a number, or what stands for an absent one. */
bool arg_text(struct run *r, const struct value *v, struct text *out) MUST_CHECK;
bool arg_int(struct run *r, const struct value *v, int64_t otherwise, int64_t *out) MUST_CHECK;
bool date_text(struct run *r, struct text format, struct value *out) MUST_CHECK;

/* ---- eval.c, exec.c ---------------------------------------------------------------------------- */
bool node_evaluate(struct run *r, const struct node *n, struct value *out) MUST_CHECK;
bool node_execute(struct run *r, const struct node *body) MUST_CHECK; /* a list of statements */
bool macro_call(struct run *r, const struct macro *m, const struct args *args, struct value *out) MUST_CHECK;

#endif
