#include "machine.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A file that holds one number of bytes, or "max". */
static size_t number_in(const char *path)
{
    char text[64] = "";
    FILE *f = fopen(path, "re");
    if (!f) return SIZE_MAX;
    bool read = fgets(text, sizeof text, f) != NULL;
    (void)fclose(f);
    if (!read || text[0] < '0' || text[0] > '9') return SIZE_MAX;
    return (size_t)strtoull(text, NULL, 10);
}

/* The group's own limit and those of all above it. */
static size_t least_above(const char *root, const char *folder, char *group, const char *file)
{
    size_t least = SIZE_MAX;
    char path[1024];
    for (;;) {
        int n = snprintf(path, sizeof path, "%s%s%s/%s", root, folder, group, file);
        size_t limit = n > 0 && (size_t)n < sizeof path ? number_in(path) : SIZE_MAX;
        if (limit < least) least = limit;
        char *slash = strrchr(group, '/');
        if (!slash) return least;
        *slash = '\0';
    }
}

/* A line of /proc/self/cgroup is number:controllers:path; version 2 has one without controllers. */
static size_t limit_of_line(const char *line, size_t len, const char *root)
{
    char text[512];
    if (len >= sizeof text) return SIZE_MAX;
    memcpy(text, line, len);
    text[len] = '\0';
    char *controllers = strchr(text, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return SIZE_MAX;
    *group++ = '\0';
    if (!controllers[1]) return least_above(root, "", group, "memory.max");
    if (strcmp(controllers + 1, "memory") == 0) return least_above(root, "/memory", group, "memory.limit_in_bytes");
    return SIZE_MAX;
}

size_t machine_cgroup_limit(const char *self, const char *root)
{
    size_t least = SIZE_MAX;
    for (const char *line = self; *line;) {
        size_t len = strcspn(line, "\n"), limit = limit_of_line(line, len, root);
        if (limit < least) least = limit;
        line += len + (line[len] == '\n');
    }
    return least;
}

size_t machine_memory(void)
{
    char self[4096] = "";
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    size_t memory = pages > 0 && page > 0 ? (size_t)pages * (size_t)page : SIZE_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (f) {
        self[fread(self, 1, sizeof self - 1, f)] = '\0';
        (void)fclose(f);
    }
    size_t group = machine_cgroup_limit(self, "/sys/fs/cgroup");
    return group < memory ? group : memory;
}
