/* One safetensors shard of any bytes: its header checked, every tensor inside the file, no two of
 * them sharing a byte.
 */
#include "core/file/safetensors.h"
#include "fuzz.h"

static void check(const struct tensor_list *l, const uint8_t *data, size_t size)
{
    uint64_t header, covered = 0;
    size_t bad;
    memcpy(&header, data, sizeof header);
    for (size_t i = 0; i < l->n; i++) {
        const struct file_tensor *t = tensor_list_at(l, i);
        const struct dtype_info *d = dtype_info(t->type);
        must(tensor_list_find(l, t->name) == t);
        must(t->offset <= size && t->n_bytes <= size - t->offset);
        must(t->other || (t->n_elements > 0 && t->n_bytes == t->n_elements / d->block * d->bytes));
        must(!t->other || utf8_valid(t->other, strlen(t->other), &bad));
        covered += t->n_bytes;
    }
    must(sizeof header + header + covered == size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err e = {0};
    struct infile f;
    struct arena names;
    struct tensor_list list = {0};
    char path[64];
    size_t bad;
    int fd = file_of(data, size, path);
    must(infile_open(&f, path, &e));
    arena_init(&names, 0);
    bool ok = safetensors_read(&f, 0, &list, &names, &e) && tensor_list_seal(&list, &e);
    must(ok == (e.code == ERR_NONE));
    if (ok)
        check(&list, data, size);
    else
        must(e.code != ERR_NO_MEMORY && e.code != ERR_IO &&
             utf8_valid(e.text, strlen(e.text), &bad));
    tensor_list_release(&list);
    arena_release(&names);
    infile_close(&f);
    (void)close(fd);
    return 0;
}
