#include "auth.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct token {
    char name[NAME_TEXT];
    enum level level;
    uint8_t hash[SHA256_BYTES];
};

struct tokens {
    struct token *row;
    size_t n;
};

struct auth {
    char *path; /* NULL: no tokens in use */
    pthread_rwlock_t lock;
    struct tokens tokens;
};

static const char *const levels[] = {
    [LEVEL_NONE] = "none",     [LEVEL_READER] = "reader", [LEVEL_PROBER] = "prober",
    [LEVEL_EDITOR] = "editor", [LEVEL_ADMIN] = "admin",
};
static_assert(sizeof levels / sizeof *levels == LEVEL_ADMIN + 1, "one word per level");

const char *level_word(enum level level)
{
    assert((unsigned)level <= LEVEL_ADMIN);
    return levels[level];
}

static bool parse_level(const char *word, enum level *out)
{
    for (int l = LEVEL_READER; l <= LEVEL_ADMIN; l++)
        if (strcmp(word, levels[l]) == 0) {
            *out = (enum level)l;
            return true;
        }
    return false;
}

static bool add_line(struct tokens *t, char *line, struct err *e)
{
    char *save = NULL, *name = strtok_r(line, " \t\r\n", &save);
    if (!name || *name == '#') return true;
    char *role = strtok_r(NULL, " \t\r\n", &save), *hash = strtok_r(NULL, " \t\r\n", &save);
    struct token row = {0};
    char text[DIGEST_TEXT];
    if (!role || !hash || strtok_r(NULL, " \t\r\n", &save))
        return err_set(e, ERR_INVALID, "not `name role sha256`");
    if (strlen(name) >= sizeof row.name) return err_set(e, ERR_INVALID, "the name is too long");
    if (!parse_level(role, &row.level))
        return err_set(e, ERR_INVALID, "role %s is not reader, prober, editor or admin", role);
    (void)snprintf(text, sizeof text, "sha256:%s", hash);
    if (strlen(hash) != 2 * SHA256_BYTES || !digest_parse(text, row.hash))
        return err_set(e, ERR_INVALID, "the hash is not 64 hex digits");
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->row[i].name, name) == 0 ||
            memcmp(t->row[i].hash, row.hash, sizeof row.hash) == 0)
            return err_set(e, ERR_INVALID, "%s: name or token given twice", name);
    (void)snprintf(row.name, sizeof row.name, "%s", name);
    struct token *grown = mem_take(t->n + 1, sizeof *grown, e);
    if (!grown) return false;
    if (t->n) memcpy(grown, t->row, t->n * sizeof *grown);
    mem_drop(t->row);
    t->row = grown;
    t->row[t->n++] = row;
    return true;
}

static bool read_tokens(const char *path, struct tokens *out, struct err *e)
{
    FILE *f = fopen(path, "re");
    if (!f) return err_set(e, ERR_IO, "token file %s: %s", path, strerror(errno));
    char line[512];
    bool ok = true;
    for (int n = 1; ok && fgets(line, sizeof line, f); n++) {
        ok = strchr(line, '\n') || feof(f) || err_set(e, ERR_INVALID, "the line is too long");
        ok = ok && add_line(out, line, e);
        if (!ok) (void)err_while(e, "reading line %d of token file %s", n, path);
    }
    if (ok && ferror(f)) ok = err_set(e, ERR_IO, "token file %s cannot be read", path);
    (void)fclose(f);
    if (ok && out->n == 0) ok = err_set(e, ERR_INVALID, "token file %s holds no token", path);
    if (!ok) mem_drop(out->row);
    return ok;
}

struct auth *auth_open(const char *token_file, struct err *e)
{
    struct tokens t = {0};
    if (token_file && !read_tokens(token_file, &t, e)) return NULL;
    struct auth *a = mem_new(sizeof *a);
    a->path = token_file ? mem_text(token_file) : NULL;
    a->tokens = t;
    (void)pthread_rwlock_init(&a->lock, NULL);
    return a;
}

void auth_close(struct auth *a)
{
    if (!a) return;
    (void)pthread_rwlock_destroy(&a->lock);
    mem_drop(a->tokens.row);
    mem_drop(a->path);
    mem_drop(a);
}

bool auth_reload(struct auth *a, struct err *e)
{
    struct tokens t = {0};
    if (!a->path) return true;
    if (!read_tokens(a->path, &t, e)) return false;
    (void)pthread_rwlock_wrlock(&a->lock);
    struct token *old = a->tokens.row;
    a->tokens = t;
    (void)pthread_rwlock_unlock(&a->lock);
    mem_drop(old);
    return true;
}

bool auth_uses_tokens(const struct auth *a) { return a->path != NULL; }

static bool same_hash(const uint8_t a[SHA256_BYTES], const uint8_t b[SHA256_BYTES])
{
    unsigned diff = 0;
    for (size_t i = 0; i < SHA256_BYTES; i++) diff |= (unsigned)(a[i] ^ b[i]);
    return diff == 0;
}

static bool find(struct auth *a, const uint8_t hash[SHA256_BYTES], struct principal *who)
{
    bool found = false;
    (void)pthread_rwlock_rdlock(&a->lock);
    for (size_t i = 0; i < a->tokens.n; i++) { /* every row, whatever matched */
        const struct token *t = &a->tokens.row[i];
        if (!same_hash(t->hash, hash)) continue;
        found = true;
        who->level = t->level;
        memcpy(who->name, t->name, sizeof who->name);
    }
    (void)pthread_rwlock_unlock(&a->lock);
    return found;
}

bool auth_check(struct auth *a, const char *authorization, struct principal *who,
                struct problem *p)
{
    *who = (struct principal){.name = "local", .level = LEVEL_ADMIN};
    if (!a->path) return true;
    *who = (struct principal){.level = LEVEL_NONE, .verified = true};
    if (!authorization)
        return problem_set(p, PROBLEM_UNAUTHORIZED, "send Authorization: Bearer TOKEN");
    if (strncasecmp(authorization, "Bearer ", 7) != 0)
        return problem_set(p, PROBLEM_UNAUTHORIZED, "only the Bearer scheme is known");
    const char *token = authorization + 7;
    while (*token == ' ') token++;
    uint8_t hash[SHA256_BYTES];
    sha256(token, strlen(token), hash);
    if (!find(a, hash, who)) return problem_set(p, PROBLEM_UNAUTHORIZED, "unknown token");
    return true;
}

bool auth_allows(const struct principal *who, enum level need, struct problem *p)
{
    if (who->level >= need) return true;
    return problem_set(p, PROBLEM_FORBIDDEN, "this needs the role %s; %s has %s", level_word(need),
                       who->name, level_word(who->level));
}
