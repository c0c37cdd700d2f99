#include "config.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { S = 1 << COMMAND_SERVE, V = 1 << COMMAND_VERIFY, E = 1 << COMMAND_EXPORT };
enum kind { KIND_TEXT, KIND_LIST, KIND_NUMBER, KIND_FLAG, KIND_SIZE };

struct option {
    const char *name;
    enum kind kind;
    size_t offset;
    unsigned commands;
    const char *text;          /* default of a text */
    int64_t number, least, most;
    const char *argument, *help;
};

static const struct option options[] = {
#define TEXT(field, name, def, commands, arg, help)                                                \
    {name, KIND_TEXT, offsetof(struct config, field), commands, def, 0, 0, 0, arg, help},
#define LIST(field, name, commands, arg, help)                                                     \
    {name, KIND_LIST, offsetof(struct config, field), commands, NULL, 0, 0, 0, arg, help},
#define NUMBER(field, name, def, least, most, commands, unit, help)                                \
    {name, KIND_NUMBER, offsetof(struct config, field), commands, NULL, def, least, most, unit, help},
#define FLAG(field, name, commands, help)                                                          \
    {name, KIND_FLAG, offsetof(struct config, field), commands, NULL, 0, 0, 0, NULL, help},
#define SIZE(field, name, least, commands, help)                                                   \
    {name, KIND_SIZE, offsetof(struct config, field), commands, NULL, 0, least, INT64_MAX, "BYTES", help},
#include "config.def"
#undef TEXT
#undef LIST
#undef NUMBER
#undef FLAG
#undef SIZE
};
enum { N_OPTIONS = sizeof options / sizeof *options };
static_assert(N_OPTIONS <= 64, "the set of given options is one word");

static const struct {
    const char *word;
    enum command command;
    const char *does;
} commands[] = {
    {"serve", COMMAND_SERVE, "serve models and their histories over HTTP; --model once for each"},
    {"verify", COMMAND_VERIFY, "check the whole ledger, and replay it for each --model; exit 0 only if all agrees"},
    {"export", COMMAND_EXPORT, "write a view as a hub-style safetensors directory"},
    {"--version", COMMAND_VERSION, NULL},
    {"--help", COMMAND_HELP, NULL},
    {"-h", COMMAND_HELP, NULL},
    {"help", COMMAND_HELP, NULL},
};

struct parse {
    struct config *c;
    uint64_t given; /* a bit per option, of the source being read */
    uint64_t fixed; /* given by a stronger source */
};

static void *field(struct config *c, const struct option *o) { return (char *)c + o->offset; }

static void set_text(struct config *c, const struct option *o, const char *value)
{
    char **text = field(c, o);
    mem_drop(*text);
    *text = value ? mem_text(value) : NULL;
}

static void append(struct config_list *list, const char *value)
{
    char **grown = mem_new((list->n + 1) * sizeof *grown);
    if (list->n) memcpy(grown, list->value, list->n * sizeof *grown);
    mem_drop(list->value);
    list->value = grown;
    list->value[list->n++] = mem_text(value);
}

static void release_list(struct config_list *list)
{
    for (size_t i = 0; i < list->n; i++) mem_drop(list->value[i]);
    mem_drop(list->value);
    *list = (struct config_list){0};
}

static void set_defaults(struct config *c)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        if (o->kind == KIND_TEXT) set_text(c, o, o->text);
        else if (o->kind == KIND_NUMBER) *(int64_t *)field(c, o) = o->number;
    }
}

static bool set_number(struct config *c, const struct option *o, const char *value, struct err *e)
{
    char *end;
    errno = 0;
    long long v = strtoll(value, &end, 10);
    if (errno || end == value || *end || v < o->least || v > o->most)
        return err_set(e, ERR_INVALID, "--%s takes a number from %" PRId64 " to %" PRId64 ", not %s",
                       o->name, o->least, o->most, value);
    *(int64_t *)field(c, o) = v;
    return true;
}

/* A number with a binary unit behind it: 4096, 512M, 4G, 1.5G is refused. */
static bool set_size(struct config *c, const struct option *o, const char *value, struct err *e)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    long long v = strtoll(value, &end, 10);
    const char *unit = *end ? strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end) : NULL;
    int shift = unit ? 10 * (int)(unit - units + 1) : 0;
    bool whole = end != value && (!*end || (unit && !end[1]));
    if (errno || !whole || v < 0 || v > INT64_MAX >> shift || v << shift < o->least)
        return err_set(e, ERR_INVALID, "--%s takes bytes, as in 536870912, 512M or 4G, not %s", o->name, value);
    *(int64_t *)field(c, o) = v << shift;
    return true;
}

static bool set_flag(struct config *c, const struct option *o, const char *value, struct err *e)
{
    bool yes = strcmp(value, "true") == 0;
    if (!yes && strcmp(value, "false") != 0)
        return err_set(e, ERR_INVALID, "--%s is true or false, not %s", o->name, value);
    *(bool *)field(c, o) = yes;
    return true;
}

static const struct option *find(const char *name, size_t len)
{
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (strlen(options[i].name) == len && memcmp(options[i].name, name, len) == 0)
            return &options[i];
    return NULL;
}

static bool set(struct parse *p, const struct option *o, const char *value, struct err *e)
{
    uint64_t bit = UINT64_C(1) << (o - options);
    if (p->given & bit && o->kind != KIND_LIST) return err_set(e, ERR_INVALID, "--%s is given twice", o->name);
    p->given |= bit;
    if (p->fixed & bit) return true;
    if (o->kind == KIND_NUMBER) return set_number(p->c, o, value, e);
    if (o->kind == KIND_SIZE) return set_size(p->c, o, value, e);
    if (o->kind == KIND_FLAG) return set_flag(p->c, o, value, e);
    if (!*value) return err_set(e, ERR_INVALID, "--%s is empty", o->name);
    if (o->kind == KIND_LIST) append(field(p->c, o), value);
    else set_text(p->c, o, value);
    return true;
}

static bool parse_arguments(struct parse *p, int argc, char **argv, struct err *e)
{
    for (int i = 2; i < argc; i++) {
        const char *arg = argv[i];
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            p->c->about = p->c->command;
            p->c->command = COMMAND_HELP;
            return true;
        }
        const char *equals = strchr(arg, '=');
        size_t len = equals ? (size_t)(equals - arg) : strlen(arg);
        const struct option *o = len > 2 && strncmp(arg, "--", 2) == 0 ? find(arg + 2, len - 2) : NULL;
        if (!o) return err_set(e, ERR_INVALID, "unknown option %s (see engramd --help)", arg);
        if (!(o->commands & (1u << p->c->command)))
            return err_set(e, ERR_INVALID, "--%s is not an option of %s", o->name, argv[1]);
        const char *value = equals ? equals + 1 : o->kind == KIND_FLAG ? "true" : argv[++i];
        if (!value) return err_set(e, ERR_INVALID, "--%s needs a value", o->name);
        if (!set(p, o, value, e)) return false;
    }
    return true;
}

static char *trim(char *s)
{
    s += strspn(s, " \t\r\n");
    size_t n = strlen(s);
    while (n && strchr(" \t\r\n", s[n - 1])) s[--n] = '\0';
    return s;
}

static bool parse_line(struct parse *p, char *line, struct err *e)
{
    char *text = trim(line);
    if (!*text || *text == '#') return true;
    char *equals = strchr(text, '=');
    if (!equals) return err_set(e, ERR_INVALID, "not `name = value`");
    *equals = '\0';
    char *name = trim(text), *value = trim(equals + 1);
    const struct option *o = find(name, strlen(name));
    if (!o || strcmp(name, "config") == 0) return err_set(e, ERR_INVALID, "unknown option %s", name);
    return set(p, o, value, e); /* one file may serve several commands: no check of the command */
}

static bool parse_file(struct parse *p, const char *path, struct err *e)
{
    FILE *f = fopen(path, "re");
    if (!f) return err_set(e, ERR_IO, "config file %s: %s", path, strerror(errno));
    char line[4096];
    bool ok = true;
    for (int n = 1; ok && fgets(line, sizeof line, f); n++) {
        ok = parse_line(p, line, e);
        if (!ok) (void)err_while(e, "reading line %d of config file %s", n, path);
    }
    (void)fclose(f);
    return ok;
}

static bool require(const char *value, const char *name, struct err *e)
{
    return value || err_set(e, ERR_INVALID, "--%s is needed", name);
}

static bool check_needed(const struct config *c, struct err *e)
{
    if (c->command < COMMAND_SERVE) return true;
    if (!require(c->data, "data", e)) return false;
    if (c->command != COMMAND_VERIFY && !c->models.n) return require(NULL, "model", e);
    if (c->command == COMMAND_EXPORT && c->models.n > 1)
        return err_set(e, ERR_INVALID, "export writes one view of one model; --model is given %zu times", c->models.n);
    if (c->name && c->models.n > 1)
        return err_set(e, ERR_INVALID, "--name names an only model; of several, write --model NAME=PATH");
    return c->command != COMMAND_EXPORT || require(c->out, "out", e);
}

bool config_parse(struct config *c, int argc, char **argv, struct err *e)
{
    *c = (struct config){.command = argc < 2 ? COMMAND_HELP : COMMAND_NONE};
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].word) == 0) c->command = commands[i].command;
    if (c->command == COMMAND_NONE)
        return err_set(e, ERR_INVALID, "unknown command %s (see engramd --help)", argv[1]);
    set_defaults(c);
    if (c->command < COMMAND_SERVE) return true;
    struct parse p = {.c = c};
    bool ok = parse_arguments(&p, argc, argv, e);
    if (ok && c->config_file) {
        struct parse file = {.c = c, .fixed = p.given};
        ok = parse_file(&file, c->config_file, e);
    }
    ok = ok && check_needed(c, e);
    if (!ok) config_release(c);
    return ok;
}

void config_release(struct config *c)
{
    for (size_t i = 0; i < N_OPTIONS; i++) {
        if (options[i].kind == KIND_TEXT) set_text(c, &options[i], NULL);
        else if (options[i].kind == KIND_LIST) release_list(field(c, &options[i]));
    }
}

int config_threads(const struct config *c)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    return c->threads ? (int)c->threads : cores > 0 ? (int)cores : 1;
}

const char *config_model(const char *option, char name[CONFIG_NAME], struct err *e)
{
    size_t len = strcspn(option, "=/");
    name[0] = '\0';
    if (option[len] != '=') return option;
    const char *path = option + len + 1;
    if (!len || !*path || len >= CONFIG_NAME) {
        (void)err_set(e, ERR_INVALID, "--model takes PATH or NAME=PATH, a name of 1 to %d bytes; not %s",
                      CONFIG_NAME - 1, option);
        return NULL;
    }
    memcpy(name, option, len);
    name[len] = '\0';
    return path;
}

static void help_option(const struct option *o, struct buf *out)
{
    char left[64];
    (void)snprintf(left, sizeof left, "--%s %s", o->name,
                   o->kind == KIND_NUMBER ? "N" : o->argument ? o->argument : "");
    buf_printf(out, "    %-28s %s", left, o->help);
    if (o->kind == KIND_NUMBER)
        buf_printf(out, " (%" PRId64 " %s; %" PRId64 " to %" PRId64 ")", o->number, o->argument,
                   o->least, o->most);
    else if (o->text) buf_printf(out, " (%s)", o->text);
    buf_text(out, "\n");
}

static void help_command(size_t k, struct buf *out)
{
    buf_printf(out, "  engramd %s: %s\n", commands[k].word, commands[k].does);
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (options[i].commands & (1u << commands[k].command)) help_option(&options[i], out);
}

void config_help(enum command about, struct buf *out)
{
    if (!about) buf_text(out, "engramd keeps language models in memory and versions their weights.\n\n");
    for (size_t k = 0; k < sizeof commands / sizeof *commands; k++) {
        if (!commands[k].does || (about && about != commands[k].command)) continue;
        help_command(k, out);
        if (!about) buf_text(out, "\n");
    }
    if (!about) buf_text(out, "  engramd --version | --help\n");
}
