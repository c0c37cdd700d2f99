/* One safetensors shard of any bytes: its header checked, every tensor inside the file, no two of
 * them sharing a byte.
 *
 *   clang -g -O1 -D_GNU_SOURCE -I. -fsanitize=fuzzer,address,undefined \
 *       tests/fuzz/fuzz_safetensors.c \
 *       core/{safetensors,tensor_list,infile,quant,json,utf8,mem,err}.c \
 *       -lm -o fuzz_safetensors && ./fuzz_safetensors -max_total_time=60
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/file/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool promise)
{
    if (!promise) abort();
}

static void check(const struct tensor_list *l, const uint8_t *data, size_t size)
{
    uint64_t header, covered = 0;
    memcpy(&header, data, sizeof header);
    for (size_t i = 0; i < l->n; i++) {
        const struct file_tensor *t = tensor_list_at(l, i);
        const struct dtype_info *d = dtype_info(t->type);
        must(tensor_list_find(l, t->name) == t);
        must(t->offset <= size && t->n_bytes <= size - t->offset);
        must(t->n_bytes == t->n_elements / d->block * d->bytes);
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
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
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
