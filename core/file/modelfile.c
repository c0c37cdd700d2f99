#include "modelfile.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/json_write.h"
#include "gguf.h"
#include "hubdir.h"

struct modelfile {
    char *path;
    struct gguf *gguf; /* one of the two */
    struct hubdir *hub;
    const struct infile *files; /* theirs */
    size_t n_files;
    const struct tensor_list *tensors; /* theirs */
};

struct modelfile *modelfile_open(const char *path, struct err *e)
{
    struct modelfile *f = mem_new(sizeof *f);
    struct stat st;
    f->path = mem_text(path);
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        f->hub = hubdir_open(path, e);
    else
        f->gguf = gguf_open(path, e);
    if (f->gguf) {
        f->files = gguf_file(f->gguf);
        f->n_files = 1;
        f->tensors = gguf_tensors(f->gguf);
    } else if (f->hub) {
        f->files = f->hub->files;
        f->n_files = f->hub->n_files;
        f->tensors = &f->hub->tensors;
    } else {
        modelfile_close(f);
        return NULL;
    }
    return f;
}

void modelfile_close(struct modelfile *f)
{
    if (!f) return;
    gguf_close(f->gguf);
    hubdir_close(f->hub);
    mem_drop(f->path);
    mem_drop(f);
}

/* ---- tensors -------------------------------------------------------------------------------- */

/* Index of the first NaN or infinity, or n. The first pass has no branches and vectorises. */
static size_t first_nonfinite(const float *x, size_t n)
{
    const uint32_t exponent = 0x7F800000;
    uint32_t any = 0, bits;
    for (size_t i = 0; i < n; i++) {
        memcpy(&bits, x + i, sizeof bits);
        any |= (uint32_t)((bits & exponent) == exponent);
    }
    if (!any) return n;
    size_t i = 0;
    while (i < n && isfinite(x[i])) i++;
    return i;
}

bool modelfile_read(const struct modelfile *f, const struct file_tensor *t, enum dtype as, void *dst,
                    struct err *e)
{
    enum { CHUNK_BYTES = 64 * 1024, CHUNK_FLOATS = 64 * 1024 }; /* what stays in the cache between the steps */
    const struct dtype_info *d = dtype_info(t->type);
    const struct infile *file = &f->files[t->file];
    const uint64_t n_blocks = t->n_elements / d->block, most_bytes = CHUNK_BYTES / d->bytes,
                   most_floats = CHUNK_FLOATS / d->block, most = most_bytes < most_floats ? most_bytes : most_floats;
    const bool raw = as == t->type;
    assert(!t->other && t->file < f->n_files && n_blocks * d->bytes == t->n_bytes && (raw || as == DTYPE_F32));
    void *aside = mem_take(1, raw ? CHUNK_FLOATS * sizeof(float) : CHUNK_BYTES, e); /* what dst does not get */
    bool ok = aside != NULL;
    for (uint64_t done = 0; ok && done < n_blocks;) {
        size_t blocks = (size_t)(n_blocks - done < most ? n_blocks - done : most), n = blocks * d->block;
        unsigned char *bytes = raw ? (unsigned char *)dst + done * d->bytes : aside;
        float *values = raw ? aside : (float *)dst + done * d->block;
        ok = infile_read(file, t->offset + done * d->bytes, bytes, blocks * d->bytes, e) ||
             err_while(e, "reading tensor '%s' of %s", t->name, file->path);
        if (!ok) break;
        dtype_widen(t->type, bytes, values, n);
        size_t bad = first_nonfinite(values, n);
        if (bad < n)
            ok = err_set(e, ERR_CORRUPT,
                         "tensor '%s' has a NaN or an infinity at element %" PRIu64
                         " (while reading %s)",
                         t->name, done * d->block + bad, file->path);
        done += blocks;
    }
    mem_drop(aside);
    return ok;
}

size_t modelfile_count(const struct modelfile *f) { return f->tensors->n; }

const struct file_tensor *modelfile_tensor(const struct modelfile *f, size_t i)
{
    return tensor_list_at(f->tensors, i);
}

const struct file_tensor *modelfile_find(const struct modelfile *f, const char *name)
{
    return tensor_list_find(f->tensors, name);
}

/* ---- the rest ------------------------------------------------------------------------------- */

static const struct json *document(const struct modelfile *f, enum hub_doc which)
{
    return f->hub ? f->hub->doc[which] : NULL;
}

const struct json *modelfile_config(const struct modelfile *f) { return document(f, DOC_CONFIG); }
const struct json *modelfile_tokenizer(const struct modelfile *f)
{
    return document(f, DOC_TOKENIZER);
}

const struct json *modelfile_tokenizer_config(const struct modelfile *f)
{
    return document(f, DOC_TOKENIZER_CONFIG);
}

const struct json *modelfile_generation_config(const struct modelfile *f)
{
    return document(f, DOC_GENERATION_CONFIG);
}

const char *modelfile_chat_template(const struct modelfile *f)
{
    return f->hub ? f->hub->chat_template : NULL;
}

void modelfile_describe(const struct modelfile *f, struct buf *out)
{
    if (f->gguf) {
        gguf_describe(f->gguf, out);
        return;
    }
    const struct json *said[] = {modelfile_config(f), modelfile_tokenizer(f), modelfile_tokenizer_config(f),
                                 modelfile_generation_config(f)};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        if (said[i]) json_write(said[i], out);
        buf_text(out, "\n");
    }
    if (f->hub->chat_template) buf_text(out, f->hub->chat_template);
}

const struct gguf *modelfile_gguf(const struct modelfile *f) { return f->gguf; }
const char *modelfile_path(const struct modelfile *f) { return f->path; }
size_t modelfile_file_count(const struct modelfile *f) { return f->n_files; }

const char *modelfile_file_path(const struct modelfile *f, size_t i)
{
    assert(i < f->n_files);
    return f->files[i].path;
}
