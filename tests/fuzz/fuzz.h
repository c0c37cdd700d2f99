/* What the fuzzers share: libFuzzer's entry, and promises that hold in every build.
 *
 * `tools/fuzz.sh NAME SECONDS` builds and runs one, from the repository's root.
 */
#ifndef ENGRAM_FUZZ_H
#define ENGRAM_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void must(bool promise)
{
    if (!promise) abort();
}

/* The input as a file: path is one by which it can be opened until the returned descriptor is closed. */
static inline int file_of(const uint8_t *data, size_t size, char path[static 64])
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    (void)snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

#endif
