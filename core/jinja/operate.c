#include <math.h>
#include <string.h>

#include "lex.h"
#include "state.h"

bool value_is_true(const struct value *v)
{
    switch (v->type) {
    case V_ABSENT:
    case V_UNDEFINED:
    case V_NONE: return false;
    case V_BOOL: return v->truth;
    case V_INT: return v->integer != 0;
    case V_FLOAT: return v->number != 0;
    case V_TEXT: return v->text.len != 0;
    case V_LIST: return v->list->kind == STREAM || v->list->n != 0;
    case V_DICT: return v->dict->n != 0;
    default: return true;
    }
}

bool value_is_number(const struct value *v)
{
    return v->type == V_BOOL || v->type == V_INT || v->type == V_FLOAT;
}

static int64_t whole(const struct value *v) { return v->type == V_BOOL ? v->truth : v->integer; }
static double real(const struct value *v) { return v->type == V_FLOAT ? v->number : (double)whole(v); }

/* -1, 0, 1; 2: one is not a number. An int that float64 cannot hold is compared as the nearest. */
static int order_numbers(const struct value *a, const struct value *b)
{
    if (a->type != V_FLOAT && b->type != V_FLOAT)
        return (whole(a) > whole(b)) - (whole(a) < whole(b));
    return isnan(real(a)) || isnan(real(b)) ? 2 : (real(a) > real(b)) - (real(a) < real(b));
}

/* ---- equality ---------------------------------------------------------------------------------- */

static bool equal_lists(struct run *r, const struct list *a, const struct list *b, bool *out)
{
    if (a->kind > TUPLE || b->kind > TUPLE) return run_refuse(r, "comparing a list that is not a plain one");
    *out = a->kind == b->kind && a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++)
        if (!value_equal(r, &a->item[i], &b->item[i], out)) return false;
    return true;
}

static bool equal_dicts(struct run *r, const struct dict *a, const struct dict *b, bool *out)
{
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        const struct value *other = dict_find(r, b, &a->pair[i].key);
        if (!run_spend(r, 1 + b->n)) return false;
        *out = other != NULL;
        if (other && !value_equal(r, &a->pair[i].value, other, out)) return false;
    }
    return true;
}

bool value_equal(struct run *r, const struct value *a, const struct value *b, bool *out)
{
    *out = false;
    if (!run_spend(r, 1) || !run_enter(r)) return false;
    bool ok = true;
    if (value_is_number(a) && value_is_number(b)) {
        *out = order_numbers(a, b) == 0;
    } else if (a->type == b->type) {
        switch (a->type) {
        case V_UNDEFINED:
        case V_NONE: *out = true; break;
        case V_TEXT:
            *out = a->text.len == b->text.len && text_compare(a->text, b->text) == 0;
            ok = run_spend_bytes(r, a->text.len);
            break;
        case V_LIST: ok = equal_lists(r, a->list, b->list, out); break;
        case V_DICT: ok = equal_dicts(r, a->dict, b->dict, out); break;
        case V_SPACE: *out = a->dict == b->dict; break;
        default: ok = run_refuse_type(r, "comparing the value", a);
        }
    }
    run_leave(r);
    return ok;
}

bool value_contains(struct run *r, const struct value *in, const struct value *what, bool *out)
{
    struct list *list;
    size_t at;
    *out = false;
    if (is_text(in)) {
        if (!is_text(what)) return run_refuse_type(r, "looking in a string for the value", what);
        if (!text_find(r, in->text, what->text, 0, &at)) return false;
        *out = at != SIZE_MAX;
        return true;
    }
    if (in->type == V_DICT && (what->type == V_LIST || what->type == V_DICT))
        return run_refuse_type(r, "looking in a dict for the key", what);
    if (!value_elements(r, in, &list)) return false;
    for (size_t i = 0; !*out && i < list->n; i++)
        if (!value_equal(r, &list->item[i], what, out)) return false;
    return true;
}

/* ---- order ------------------------------------------------------------------------------------- */

bool value_compare(struct run *r, unsigned op, const struct value *a, const struct value *b, bool *out)
{
    int order;
    if (op == OP2('=', '=')) return value_equal(r, a, b, out);
    if (op == OP_IN) return value_contains(r, b, a, out);
    if (op == OP2('!', '=') || op == OP_NOT_IN) {
        bool ok = op == OP_NOT_IN ? value_contains(r, b, a, out) : value_equal(r, a, b, out);
        *out = !*out;
        return ok;
    }
    if (value_is_number(a) && value_is_number(b)) order = order_numbers(a, b);
    else if (is_text(a) && is_text(b)) order = text_compare(a->text, b->text);
    else return run_refuse_type(r, "the order", value_is_number(a) || is_text(a) ? b : a);
    bool less = op == '<' || op == OP2('<', '='), same = op == OP2('<', '=') || op == OP2('>', '=');
    *out = order != 2 && (order == 0 ? same : less == (order < 0));
    return true;
}

/* ---- arithmetic -------------------------------------------------------------------------------- */

static bool add_lists(struct run *r, const struct list *a, const struct list *b, struct value *out)
{
    if (a->kind > TUPLE || a->kind != b->kind) return run_refuse(r, "adding lists of different kinds");
    if (!value_list(r, a->kind, a->n + b->n, out)) return false;
    if (a->n) memcpy(out->list->item, a->item, a->n * sizeof *a->item);
    if (b->n) memcpy(out->list->item + a->n, b->item, b->n * sizeof *b->item);
    return true;
}

static bool repeat(struct run *r, struct text t, int64_t times, struct value *out)
{
    struct sink s = {0};
    if (times > JINJA_OUTPUT_MAX) return run_refuse(r, "repeating a string %lld times", (long long)times);
    for (int64_t i = 0; i < times && t.len; i++) {
        if (!run_spend_bytes(r, t.len) || s.text.len > JINJA_OUTPUT_MAX) {
            sink_release(&s);
            return s.text.len <= JINJA_OUTPUT_MAX ? false : run_spend_bytes(r, SIZE_MAX);
        }
        sink_text(&s, t);
    }
    return sink_value(r, &s, out);
}

/* Towards minus infinity, the remainder with the divisor's sign, as Python has it. */
static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

static bool whole_numbers(struct run *r, unsigned op, int64_t a, int64_t b, struct value *out)
{
    bool over = false;
    *out = value_int(0);
    if ((op == '%' || op == OP2('/', '/')) && b == 0) return run_refuse(r, "a division by zero");
    if (b == -1 && op != '*' && op != '+' && op != '-') over = a == INT64_MIN;
    if (op == '+') over = __builtin_add_overflow(a, b, &out->integer);
    else if (op == '-') over = __builtin_sub_overflow(a, b, &out->integer);
    else if (op == '*') over = __builtin_mul_overflow(a, b, &out->integer);
    else if (!over) out->integer = op == '%' ? a - floor_div(a, b) * b : floor_div(a, b);
    return !over || run_refuse(r, "a whole number outside 64 bits");
}

static bool real_numbers(struct run *r, unsigned op, double a, double b, struct value *out)
{
    *out = (struct value){.type = V_FLOAT};
    if ((op == '/' || op == '%' || op == OP2('/', '/')) && b == 0) return run_refuse(r, "a division by zero");
    if (op == '%' || op == OP2('/', '/')) return run_refuse(r, "%% or // of floats");
    out->number = op == '+' ? a + b : op == '-' ? a - b : op == '*' ? a * b : a / b;
    return true;
}

bool value_arithmetic(struct run *r, unsigned op, const struct value *a, const struct value *b, struct value *out)
{
    if (op == OP2('*', '*')) return run_refuse(r, "the operator **");
    if (value_is_number(a) && value_is_number(b)) {
        if (a->type == V_FLOAT || b->type == V_FLOAT || op == '/')
            return real_numbers(r, op, real(a), real(b), out);
        return whole_numbers(r, op, whole(a), whole(b), out);
    }
    if ((is_text(a) && a->markup) || (is_text(b) && b->markup))
        return run_refuse(r, "an operator on a string marked safe");
    if (op == '+' && is_text(a) && is_text(b)) return text_join(r, a->text, b->text, out);
    if (op == '+' && a->type == V_LIST && b->type == V_LIST) return add_lists(r, a->list, b->list, out);
    if (op == '*' && is_text(a) && value_is_number(b) && b->type != V_FLOAT) return repeat(r, a->text, whole(b), out);
    if (op == '*' && is_text(b) && value_is_number(a) && a->type != V_FLOAT) return repeat(r, b->text, whole(a), out);
    if (op == '%' && is_text(a)) return run_refuse(r, "%% formatting of a string");
    return run_refuse_type(r, "arithmetic with the value", value_is_number(a) || is_text(a) ? b : a);
}

bool value_negate(struct run *r, const struct value *v, struct value *out)
{
    const struct value zero = value_int(0);
    if (!value_is_number(v)) return run_refuse_type(r, "the negative", v);
    if (v->type != V_FLOAT) return whole_numbers(r, '-', zero.integer, whole(v), out);
    *out = (struct value){.type = V_FLOAT, .number = -v->number};
    return true;
}
