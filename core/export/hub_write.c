#include "hub_write.h"

#include <string.h>

#include "hub_config.h"
#include "hub_tokenizer.h"
#include "core/file/infile.h"
#include "core/file/outdir.h"
#include "core/file/safetensors_write.h"

/* ---- weights -------------------------------------------------------------------------------- */

/* Call `each` for the tensors in the order of the file. */
static void in_file_order(const struct view *v, void (*each)(const struct view *, size_t, void *),
                          void *ctx)
{
    static const uint32_t widths[] = {4, 2};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
        for (size_t i = 0; i < view_model(v)->n_tensors; i++)
            if (dtype_info(view_tensor_type(v, i))->bytes == widths[w]) each(v, i, ctx);
}

static void add_tensor(const struct view *v, size_t i, void *writer)
{
    const struct tensor *t = &view_model(v)->tensors[i];
    uint64_t matrix[] = {t->rows, t->cols}, vector[] = {t->cols};
    st_add(writer, t->name, view_tensor_type(v, i), t->n_dims, t->n_dims == 1 ? vector : matrix);
}

static void put_tensor(const struct view *v, size_t i, void *outdir)
{
    view_tensor_bytes(v, i, outdir_bytes, outdir);
}

/* Lengthen the header with spaces so that the data begins on a cache line, also for those who map
 * the file: linear algebra then runs as it does on memory of its own. */
static void align_data(struct buf *head)
{
    enum { LINE = 64 };
    uint64_t n;
    while (head->len % LINE && !head->failed) buf_put(head, " ", 1);
    n = head->len - sizeof n;
    if (!head->failed) memcpy(head->data, &n, sizeof n);
}

static bool write_weights(const struct view *v, struct outdir *d, struct err *e)
{
    struct st_writer w = {0};
    struct buf head = {0};
    in_file_order(v, add_tensor, &w);
    bool ok = st_header(&w, "pt", &head, e);
    if (ok) align_data(&head);
    ok = ok && buf_ok(&head, e) && outdir_begin(d, "model.safetensors", e);
    if (ok) {
        outdir_bytes(d, head.data, head.len);
        in_file_order(v, put_tensor, d);
        ok = outdir_end(d, e);
    }
    st_release(&w);
    buf_release(&head);
    return ok;
}

/* ---- the source directory's own files -------------------------------------------------------- */

enum { COPY_MAX_BYTES = 100 * 1000 * 1000 };

static bool copy_file(const char *from, const char *name, struct outdir *d, struct err *e)
{
    struct err mine = {0};
    struct buf path = {0};
    size_t len;
    buf_printf(&path, "%s/%s", from, name);
    if (!buf_ok(&path, e)) return false;
    char *text = infile_whole(path.data, COPY_MAX_BYTES, &len, &mine);
    bool ok = true;
    if (text) {
        ok = outdir_file(d, name, text, len, e);
    } else if (mine.code != ERR_NOT_FOUND) {
        *e = mine;
        ok = err_while(e, "reading %s", path.data);
    }
    mem_drop(text);
    buf_release(&path);
    return ok;
}

static bool copy_files(const char *from, struct outdir *d, struct err *e)
{
    static const char *const names[] = {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!copy_file(from, names[i], d, e)) return false;
    return true;
}

/* ---- what a GGUF says instead ---------------------------------------------------------------- */

static bool write_buf(struct outdir *d, const char *name, bool made, struct buf *b, struct err *e)
{
    bool ok = made && outdir_file(d, name, b->data, b->len, e);
    buf_release(b);
    return ok;
}

static bool write_files(const struct model *m, struct outdir *d, struct err *e)
{
    const struct gguf *g = modelfile_gguf(m->file);
    struct buf b = {0};
    return write_buf(d, "tokenizer.json", hub_tokenizer(g, &b, e), &b, e) &&
           write_buf(d, "tokenizer_config.json",
                     hub_tokenizer_config(g, m->arch.context, &b, e), &b, e) &&
           write_buf(d, "generation_config.json", hub_generation_config(m, &b, e), &b, e);
}

bool hub_write(const struct view *v, const char *path, struct err *e)
{
    const struct model *m = view_model(v);
    struct outdir d;
    struct buf config = {0};
    if (!outdir_open(&d, path, e)) return false;
    bool ok = write_weights(v, &d, e) &&
              (modelfile_gguf(m->file) ? write_files(m, &d, e)
                                       : copy_files(modelfile_path(m->file), &d, e)) &&
              write_buf(&d, "config.json", hub_config(v, &config, e), &config, e) &&
              outdir_finish(&d, e);
    buf_release(&config);
    outdir_close(&d);
    return ok;
}
