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
            .n = r->n, .ignore_merges = r->ignore_merges, .nfc = r->nfc};
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

/* Absent: the default. */
static bool flag(const struct json *o, const char *key, bool otherwise)
{
    const struct json *v = json_get(o, key);
    return v && v->type == JSON_BOOL ? v->boolean : otherwise;
}

static bool is_text(const struct json *v, const char *text)
{
    return v && v->type == JSON_STRING && strcmp(v->text, text) == 0;
}

static bool read_split(const struct json *o, struct pretokenize_plan *plan, struct err *e)
{
    const struct json *regex = json_get(json_get(o, "pattern"), "Regex");
    if (!regex || regex->type != JSON_STRING)
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer Split without a Regex pattern");
    size_t i = 0;
    while (i < SPLIT_COUNT && !(known[i].regex && strcmp(known[i].regex, regex->text) == 0)) i++;
    if (i == SPLIT_COUNT)
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer pattern is not one we have: %.200s",
                       regex->text);
    bool invert = flag(o, "invert", false);
    bool isolated = is_text(json_get(o, "behavior"), "Isolated") && (!invert || known[i].covers);
    bool kept = is_text(json_get(o, "behavior"), "Removed") && invert && known[i].covers;
    if (!isolated && !kept)
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer Split of a behavior other than Isolated");
    return add(plan, (enum split_id)i, e);
}

/* *done: ByteLevel came, after which text is no longer text and nothing may follow. */
static bool read_step(const struct json *o, struct pretokenize_plan *plan, bool *done,
                      struct err *e)
{
    const struct json *type = json_get(o, "type");
    if (!type || type->type != JSON_STRING)
        return err_set(e, ERR_INVALID, "pre_tokenizer without a type");
    if (*done)
        return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer %.64s after ByteLevel", type->text);
    if (is_text(type, "Sequence")) {
        const struct json *list = json_get(o, "pretokenizers");
        if (!list || list->type != JSON_ARRAY)
            return err_set(e, ERR_INVALID, "pre_tokenizer Sequence without pretokenizers");
        for (const struct json *c = list->child; c; c = c->next)
            if (!read_step(c, plan, done, e)) return false;
        return true;
    }
    if (is_text(type, "Split")) return read_split(o, plan, e);
    if (is_text(type, "Digits"))
        return add(plan, flag(o, "individual_digits", false) ? SPLIT_DIGIT : SPLIT_DIGIT_RUN, e);
    if (is_text(type, "ByteLevel")) {
        *done = true;
        plan->prefix_space = flag(o, "add_prefix_space", true);
        plan->prefix_from = plan->n;
        return !flag(o, "use_regex", true) || add(plan, SPLIT_GPT2, e);
    }
    return err_set(e, ERR_UNSUPPORTED, "pre_tokenizer %.64s is not one we have", type->text);
}

bool pretokenize_json(const struct json *pre_tokenizer, struct pretokenize_plan *plan,
                      struct err *e)
{
    bool byte_level = false;
    *plan = (struct pretokenize_plan){0};
    if (!pre_tokenizer || pre_tokenizer->type != JSON_OBJECT)
        return err_set(e, ERR_UNSUPPORTED, "tokenizer.json without a ByteLevel pre_tokenizer");
    if (!read_step(pre_tokenizer, plan, &byte_level, e)) return false;
    return byte_level ||
           err_set(e, ERR_UNSUPPORTED, "tokenizer.json without a ByteLevel pre_tokenizer");
}
