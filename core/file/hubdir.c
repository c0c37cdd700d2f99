#include "hubdir.h"

#include <assert.h>
#include <string.h>

#include "safetensors.h"

enum { MAX_TEXT_BYTES = 100 * 1000 * 1000, MAX_SHARDS = 4096 };
static const size_t budget_bytes = (size_t)1 << 30; /* for all documents together */

static const struct {
    const char *file;
    bool required;
} docs[] = {
    [DOC_CONFIG] = {"config.json", true},
    [DOC_TOKENIZER] = {"tokenizer.json", false},
    [DOC_TOKENIZER_CONFIG] = {"tokenizer_config.json", false},
    [DOC_GENERATION_CONFIG] = {"generation_config.json", false},
};
static_assert(sizeof docs / sizeof *docs == DOC_COUNT, "one row per document");

static const char single_file[] = "model.safetensors";
static const char index_file[] = "model.safetensors.index.json";
static const char template_file[] = "chat_template.jinja";

/* ---- documents ------------------------------------------------------------------------------ */

static char *join(const char *dir, const char *name)
{
    size_t n = strlen(dir), m = strlen(name);
    char *path = mem_new(n + 1 + m + 1);
    memcpy(path, dir, n);
    path[n] = '/';
    memcpy(path + n + 1, name, m);
    return path;
}

/* The text of dir/name (mem_drop it). NULL and *absent when there is no such file, NULL and the
 * error when there is one that cannot be had. */
static char *read_text(const char *dir, const char *name, size_t *len, bool *absent, struct err *e)
{
    struct err mine;
    char *path = join(dir, name), *text = infile_whole(path, MAX_TEXT_BYTES, len, &mine);
    *absent = !text && mine.code == ERR_NOT_FOUND;
    if (!text && !*absent) {
        *e = mine;
        (void)err_while(e, "reading %s", path);
    }
    mem_drop(path);
    return text;
}

/* An object, or NULL in *out when there is no such file. */
static bool read_object(const char *dir, const char *name, struct arena *a, const struct json **out,
                        struct err *e)
{
    size_t len;
    bool absent;
    char *text = read_text(dir, name, &len, &absent, e);
    *out = NULL;
    if (!text) return absent;
    const struct json *v = json_parse(text, len, a, e);
    mem_drop(text);
    if (v && v->type == JSON_OBJECT) {
        *out = v;
        return true;
    }
    if (v) (void)err_set(e, ERR_CORRUPT, "not a JSON object");
    if (e->code == ERR_INVALID) e->code = ERR_CORRUPT; /* the file's fault, not a caller's */
    return err_while(e, "reading %s/%s", dir, name);
}

static bool read_template(struct hubdir *d, const char *dir, struct err *e)
{
    size_t len, bad;
    bool absent;
    char *text = read_text(dir, template_file, &len, &absent, e);
    if (!text) return absent;
    bool valid = utf8_valid(text, len, &bad);
    if (valid)
        d->chat_template = arena_text(&d->arena, text, len, e);
    else
        (void)err_set(e, ERR_CORRUPT, "not UTF-8 from byte %zu on", bad);
    mem_drop(text);
    return d->chat_template || err_while(e, "reading %s/%s", dir, template_file);
}

static bool read_docs(struct hubdir *d, const char *dir, struct err *e)
{
    for (size_t i = 0; i < DOC_COUNT; i++) {
        if (!read_object(dir, docs[i].file, &d->arena, &d->doc[i], e)) return false;
        if (docs[i].required && !d->doc[i])
            return err_set(e, ERR_NOT_FOUND, "the directory has no %s (while reading %s)",
                           docs[i].file, dir);
    }
    return read_template(d, dir, e);
}

/* ---- weights -------------------------------------------------------------------------------- */

/* Open the next shard and take in its tensors. *absent: there is no such file, and no error. */
static bool add_shard(struct hubdir *d, const char *dir, const char *name, bool *absent,
                      struct err *e)
{
    struct err mine;
    struct infile *f = &d->files[d->n_files];
    char *path = join(dir, name);
    bool ok = infile_open(f, path, &mine);
    *absent = !ok && mine.code == ERR_NOT_FOUND;
    if (ok) {
        d->n_files++;
        ok = safetensors_read(f, (uint32_t)(d->n_files - 1), &d->tensors, &d->arena, &mine);
    }
    if (!ok && !*absent) {
        *e = mine;
        (void)err_while(e, "reading %s", path);
    }
    mem_drop(path);
    return ok;
}

/* Fit to open inside the directory, and to print. */
static bool plain_name(const char *name, size_t n)
{
    struct err unused;
    static const char ending[] = ".safetensors";
    size_t m = sizeof ending - 1;
    return tensor_name_check(name, n, &unused) && n > m && strcmp(name + n - m, ending) == 0 &&
           !strchr(name, '/') && !strstr(name, "..");
}

static int by_text(const void *pa, const void *pb)
{
    return strcmp(*(const char *const *)pa, *(const char *const *)pb);
}

/* The different shard names of the weight map, sorted, in *out (mem_drop it). */
static bool list_shards(const struct json *map, const char ***out, size_t *n_out, struct err *e)
{
    if (!map || map->type != JSON_OBJECT || map->len == 0)
        return err_set(e, ERR_CORRUPT, "no weight_map");
    const char **names = mem_take(map->len, sizeof *names, e);
    if (!names) return false;
    *out = names;
    size_t n = 0, unique = 0;
    for (const struct json *m = map->child; m; m = m->next) {
        if (!tensor_name_check(m->key, m->key_len, e)) return false;
        if (m->type != JSON_STRING || !plain_name(m->text, m->len))
            return err_set(e, ERR_CORRUPT,
                           "the shard of tensor '%s' is not the plain name of a "
                           "safetensors file",
                           m->key);
        names[n++] = m->text;
    }
    qsort(names, n, sizeof *names, by_text);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || strcmp(names[i], names[unique - 1]) != 0) names[unique++] = names[i];
    *n_out = unique;
    return unique <= MAX_SHARDS ||
           err_set(e, ERR_TOO_LARGE, "%zu shards, at most %d are read", unique, MAX_SHARDS);
}

static bool open_shards(struct hubdir *d, const char *dir, const char *const *names, size_t n,
                        struct err *e)
{
    d->files = mem_take(n, sizeof *d->files, e);
    if (!d->files) return false;
    bool absent;
    for (size_t i = 0; i < n; i++) {
        if (add_shard(d, dir, names[i], &absent, e)) continue;
        return absent ? err_set(e, ERR_NOT_FOUND,
                                "the directory has no shard %s, which %s names "
                                "(while reading %s)",
                                names[i], index_file, dir)
                      : false;
    }
    return true;
}

/* Each tensor of the map is in the shard the map says. */
static bool check_map(const struct hubdir *d, const struct json *map, const char *const *names,
                      const char *dir, struct err *e)
{
    for (const struct json *m = map->child; m; m = m->next) {
        const struct file_tensor *t = tensor_list_find(&d->tensors, m->key);
        if (!t || strcmp(names[t->file], m->text) != 0)
            return err_set(e, ERR_CORRUPT,
                           "tensor '%s' is not in %s, where %s places it "
                           "(while reading %s)",
                           m->key, m->text, index_file, dir);
    }
    return true;
}

static bool seal(struct hubdir *d, const char *dir, struct err *e)
{
    return tensor_list_seal(&d->tensors, e) || err_while(e, "reading the weights in %s", dir);
}

static bool read_sharded(struct hubdir *d, const char *dir, const struct json *index, struct err *e)
{
    const struct json *map = json_get(index, "weight_map");
    const char **names = NULL;
    size_t n = 0;
    bool ok = list_shards(map, &names, &n, e) || err_while(e, "reading %s/%s", dir, index_file);
    ok = ok && open_shards(d, dir, names, n, e) && seal(d, dir, e) &&
         check_map(d, map, names, dir, e);
    mem_drop(names);
    return ok;
}

static bool read_weights(struct hubdir *d, const char *dir, struct err *e)
{
    bool absent;
    const struct json *index;
    d->files = mem_new(sizeof *d->files);
    if (add_shard(d, dir, single_file, &absent, e)) return seal(d, dir, e);
    if (!absent) return false;
    mem_drop(d->files);
    d->files = NULL;
    if (!read_object(dir, index_file, &d->arena, &index, e)) return false;
    if (!index)
        return err_set(e, ERR_NOT_FOUND, "the directory has neither %s nor %s (while reading %s)",
                       single_file, index_file, dir);
    return read_sharded(d, dir, index, e);
}

struct hubdir *hubdir_open(const char *path, struct err *e)
{
    struct hubdir *d = mem_new(sizeof *d);
    arena_init(&d->arena, budget_bytes);
    if (read_docs(d, path, e) && read_weights(d, path, e)) return d;
    hubdir_close(d);
    return NULL;
}

void hubdir_close(struct hubdir *d)
{
    if (!d) return;
    for (size_t i = 0; i < d->n_files; i++) infile_close(&d->files[i]);
    mem_drop(d->files);
    tensor_list_release(&d->tensors);
    arena_release(&d->arena);
    mem_drop(d);
}
