/* Plans: by GGUF's name, or as a tokenizer.json spells them out. */
#include "pretokenize.h"

#include <assert.h>
#include <string.h>

static const struct row {
    const char *name;
    bool ignore_merges, nfc;
    unsigned char n, split[PRETOKENIZE_SPLITS];
} rows[] = {
#define SPLIT(id, covers, regex)
#define PRE(name, ignore_merges, nfc, ...)                                                         \
    {name, ignore_merges, nfc, sizeof((const unsigned char[]){__VA_ARGS__}), {__VA_ARGS__}},
#include "pretokenize.def"
#undef SPLIT
#undef PRE
};
static const struct known {
    const char *regex;
    bool covers;
} known[] = {
#define SPLIT(id, covers, regex) {regex, covers},
#define PRE(...)
#include "pretokenize.def"
#undef SPLIT
#undef PRE
};

static_assert(sizeof known / sizeof *known == SPLIT_COUNT, "one row per split");

const char *split_regex(enum split_id split) { return known[split].regex; }

bool pretokenize_named(const char *name, struct pretokenize_plan *plan, struct err *e)
{
    if (!name) name = "default";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row *r = &rows[i];
        if (strcmp(r->name, name) != 0) continue;
        *plan = (struct pretokenize_plan){
            .n = r->n, .byte_level = true, .ignore_merges = r->ignore_merges, .nfc = r->nfc};
        memcpy(plan->split, r->split, r->n);
        return true;
    }
    return err_set(e, ERR_UNSUPPORTED, "pre-tokenizer \"%.64s\" is not one we have", name);
}

static bool add(struct pretokenize_plan *plan, enum split_id split, struct err *e)
{
    if (plan->n == PRETOKENIZE_SPLITS)
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer of more than %d splits",
                       PRETOKENIZE_SPLITS);
    plan->split[plan->n++] = (unsigned char)split;
    return true;
}

static const char *const behaviors[] = {
    [SPLIT_ISOLATED] = "Isolated",           [SPLIT_REMOVED] = "Removed",
    [SPLIT_WITH_PREVIOUS] = "MergedWithPrevious", [SPLIT_WITH_NEXT] = "MergedWithNext",
    [SPLIT_CONTIGUOUS] = "Contiguous",
};

static bool read_behavior(const struct json *v, unsigned char *behavior, struct err *e)
{
    for (size_t i = 0; i < sizeof behaviors / sizeof *behaviors; i++)
        if (json_is(v, behaviors[i])) {
            *behavior = (unsigned char)i;
            return true;
        }
    return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer Split of the behavior %.64s, which is not one we have",
                   v && v->type == JSON_STRING ? v->text : "nobody names");
}

static bool add_text(struct pretokenize_plan *plan, const char *text, size_t len, struct err *e)
{
    if (len == 0 || len >= PRETOKENIZE_TEXT)
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer text of %zu bytes, 1 to %d are taken", len,
                       PRETOKENIZE_TEXT - 1);
    if (!add(plan, SPLIT_TEXT, e)) return false;
    memcpy(plan->text[plan->n - 1], text, len);
    return true;
}

static bool add_regex(struct pretokenize_plan *plan, const char *regex, struct err *e)
{
    for (size_t i = 0; i < SPLIT_COUNT; i++)
        if (known[i].regex && strcmp(known[i].regex, regex) == 0)
            return add(plan, (enum split_id)i, e);
    return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer pattern is not one we have: %.200s", regex);
}

static bool read_split(const struct json *o, struct pretokenize_plan *plan, struct err *e)
{
    const struct json *pattern = json_get(o, "pattern");
    const struct json *regex = json_get(pattern, "Regex"), *text = json_get(pattern, "String");
    unsigned char behavior = SPLIT_ISOLATED;
    if (!regex && text && text->type == JSON_STRING) {
        if (!add_text(plan, text->text, text->len, e)) return false;
    } else if (regex && regex->type == JSON_STRING) {
        if (!add_regex(plan, regex->text, e)) return false;
    } else {
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer Split without a pattern");
    }
    if (!read_behavior(json_get(o, "behavior"), &behavior, e)) return false;
    size_t at = plan->n - 1;
    bool covers = plan->split[at] < SPLIT_COUNT && known[plan->split[at]].covers;
    plan->invert[at] = json_flag(o, "invert", false);
    plan->behavior[at] = behavior;
    /* Without gaps there is nothing to remove but everything, and whose the pieces are is moot. */
    if (covers && (behavior == SPLIT_ISOLATED || (behavior == SPLIT_REMOVED && plan->invert[at]))) {
        plan->invert[at] = false;
        plan->behavior[at] = SPLIT_ISOLATED;
    }
    return true;
}

/* Metaspace's rule; older files have a truth value, which means always or never. */
static bool read_mark_prefix(const struct json *o, enum mark_prefix *prefix, struct err *e)
{
    static const char *const names[] = {[MARK_NEVER] = "never", [MARK_FIRST] = "first",
                                        [MARK_ALWAYS] = "always"};
    const struct json *scheme = json_get(o, "prepend_scheme");
    *prefix = json_flag(o, "add_prefix_space", true) ? MARK_ALWAYS : MARK_NEVER;
    if (!scheme) return true;
    for (size_t i = MARK_NEVER; i < sizeof names / sizeof *names; i++)
        if (json_is(scheme, names[i])) {
            *prefix = (enum mark_prefix)i;
            return true;
        }
    return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer Metaspace of an unknown prepend_scheme");
}

static bool read_metaspace(const struct json *o, struct pretokenize_plan *plan, struct err *e)
{
    const struct json *mark = json_get(o, "replacement");
    const char *text = mark && mark->type == JSON_STRING ? mark->text : "\u2581";
    if (plan->mark_prefix != MARK_NONE)
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer of two Metaspaces");
    if (!*text || strlen(text) >= PRETOKENIZE_TEXT)
        return err_set(e, ERR_CORRUPT, "pre_tokenizer Metaspace whose replacement is not one character");
    if (!read_mark_prefix(o, &plan->mark_prefix, e)) return false;
    memcpy(plan->mark, text, strlen(text) + 1);
    plan->prefix_from = plan->n;
    if (!json_flag(o, "split", true)) return true;
    if (!add_text(plan, text, strlen(text), e)) return false;
    plan->behavior[plan->n - 1] = SPLIT_WITH_NEXT;
    return true;
}

static bool read_byte_level(const struct json *o, struct pretokenize_plan *plan, struct err *e)
{
    bool prefix = json_flag(o, "add_prefix_space", true);
    if (prefix && plan->mark_prefix != MARK_NONE)
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer of a Metaspace and a ByteLevel with a prefix");
    plan->byte_level = true;
    plan->prefix_space = prefix;
    if (prefix) plan->prefix_from = plan->n;
    return !json_flag(o, "use_regex", true) || add(plan, SPLIT_GPT2, e);
}

static bool read_digits(const struct json *o, struct pretokenize_plan *plan, struct err *e)
{
    return add(plan, json_flag(o, "individual_digits", false) ? SPLIT_DIGIT : SPLIT_DIGIT_RUN, e);
}

static const struct reader {
    const char *type;
    bool (*read)(const struct json *o, struct pretokenize_plan *plan, struct err *e);
} readers[] = {
    {"Split", read_split},
    {"Digits", read_digits},
    {"Metaspace", read_metaspace},
    {"ByteLevel", read_byte_level},
};

static bool read_step(const struct json *o, struct pretokenize_plan *plan, struct err *e)
{
    const struct json *type = json_get(o, "type");
    if (!type || type->type != JSON_STRING)
        return err_set(e, ERR_INVALID, "pre_tokenizer without a type");
    if (plan->byte_level) /* text is no longer text */
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer %.64s after ByteLevel", type->text);
    if (json_is(type, "Sequence")) {
        const struct json *list = json_get(o, "pretokenizers");
        if (!list || list->type != JSON_ARRAY)
            return err_set(e, ERR_INVALID, "pre_tokenizer Sequence without pretokenizers");
        for (const struct json *c = list->child; c; c = c->next)
            if (!read_step(c, plan, e)) return false;
        return true;
    }
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++)
        if (json_is(type, readers[i].type)) return readers[i].read(o, plan, e);
    return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer %.64s is not one we have", type->text);
}

bool pretokenize_json(const struct json *pre_tokenizer, struct pretokenize_plan *plan,
                      struct err *e)
{
    *plan = (struct pretokenize_plan){0};
    if (!pre_tokenizer || pre_tokenizer->type == JSON_NULL) return true;
    return read_step(pre_tokenizer, plan, e);
}
