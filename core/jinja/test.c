/* What stands after `is`. */
#include "lex.h"
#include "state.h"

#define TEST(name, expression)                                                                     \
    static bool name(struct run *r, const struct value *v, const struct value *arg, struct value *out) \
    {                                                                                              \
        (void)r, (void)arg, (void)v;                                                               \
        *out = value_bool(expression);                                                             \
        return true;                                                                               \
    }
TEST(is_defined, v->type != V_UNDEFINED)
TEST(is_undefined, v->type == V_UNDEFINED)
TEST(is_none, v->type == V_NONE)
TEST(is_boolean, v->type == V_BOOL)
TEST(is_true_itself, v->type == V_BOOL && v->truth)
TEST(is_false_itself, v->type == V_BOOL && !v->truth)
TEST(is_integer, v->type == V_INT)
TEST(is_float, v->type == V_FLOAT)
TEST(is_any_number, value_is_number(v))
TEST(is_string, v->type == V_TEXT)
TEST(is_mapping, v->type == V_DICT)
TEST(is_iterable, v->type == V_TEXT || v->type == V_LIST || v->type == V_DICT || v->type == V_UNDEFINED ||
                      v->type == V_LOOP)
TEST(is_sequence, v->type == V_TEXT || v->type == V_DICT || v->type == V_UNDEFINED ||
                      (v->type == V_LIST && v->list->kind <= RANGE))

/* Identity is told only where it cannot depend on how Python shares values. */
static bool is_same(struct run *r, const struct value *v, const struct value *arg, struct value *out)
{
    bool single = arg->type == V_NONE || arg->type == V_BOOL;
    if (!single) return run_refuse_type(r, "the identity", arg);
    *out = value_bool(v->type == arg->type && (v->type == V_NONE || v->truth == arg->truth));
    return true;
}

static bool remainder_is(struct run *r, const struct value *v, int64_t divisor, int64_t want, struct value *out)
{
    const struct value by = value_int(divisor);
    if (v->type != V_INT && v->type != V_BOOL) return run_refuse_type(r, "the remainder", v);
    if (!value_arithmetic(r, '%', v, &by, out)) return false;
    *out = value_bool(out->integer == want);
    return true;
}

static bool is_odd(struct run *r, const struct value *v, const struct value *arg, struct value *out)
{
    (void)arg;
    return remainder_is(r, v, 2, 1, out);
}

static bool is_even(struct run *r, const struct value *v, const struct value *arg, struct value *out)
{
    (void)arg;
    return remainder_is(r, v, 2, 0, out);
}

static bool is_divisible(struct run *r, const struct value *v, const struct value *arg, struct value *out)
{
    int64_t by;
    return arg_int(r, arg, 1, &by) && remainder_is(r, v, by, 0, out);
}

#define COMPARISON(name, op)                                                                       \
    static bool name(struct run *r, const struct value *v, const struct value *arg, struct value *out) \
    {                                                                                              \
        bool is;                                                                                   \
        if (!value_compare(r, op, v, arg, &is)) return false;                                            \
        *out = value_bool(is);                                                                     \
        return true;                                                                               \
    }
COMPARISON(is_equal, OP2('=', '='))
COMPARISON(is_unequal, OP2('!', '='))
COMPARISON(is_less, '<')
COMPARISON(is_at_most, OP2('<', '='))
COMPARISON(is_more, '>')
COMPARISON(is_at_least, OP2('>', '='))
COMPARISON(is_in, OP_IN)

const struct callee jinja_tests[] = {
    {"defined", "", 0, is_defined},       {"undefined", "", 0, is_undefined},
    {"none", "", 0, is_none},             {"boolean", "", 0, is_boolean},
    {"true", "", 0, is_true_itself},      {"false", "", 0, is_false_itself},
    {"integer", "", 0, is_integer},       {"float", "", 0, is_float},
    {"number", "", 0, is_any_number},     {"string", "", 0, is_string},
    {"mapping", "", 0, is_mapping},       {"iterable", "", 0, is_iterable},
    {"sequence", "", 0, is_sequence},     {"sameas", "other", 1, is_same},
    {"odd", "", 0, is_odd},               {"even", "", 0, is_even},
    {"divisibleby", "num", 1, is_divisible},
    {"eq", "-", 1, is_equal},             {"equalto", "-", 1, is_equal},
    {"==", "-", 1, is_equal},             {"ne", "-", 1, is_unequal},
    {"!=", "-", 1, is_unequal},           {"lt", "-", 1, is_less},
    {"lessthan", "-", 1, is_less},        {"<", "-", 1, is_less},
    {"le", "-", 1, is_at_most},           {"<=", "-", 1, is_at_most},
    {"gt", "-", 1, is_more},              {"greaterthan", "-", 1, is_more},
    {">", "-", 1, is_more},               {"ge", "-", 1, is_at_least},
    {">=", "-", 1, is_at_least},          {"in", "seq", 1, is_in},
    {NULL, NULL, 0, NULL},
};
