/* What this machine lets a process have: its memory, or what the cgroup it runs in (a container, a
 * systemd unit) may use, whichever is less.
 *
 * Read once at start. A file that cannot be read sets no limit.
 */
#ifndef ENGRAM_MACHINE_H
#define ENGRAM_MACHINE_H

#include <stddef.h>

size_t machine_memory(void);
/* The least of the limits that a cgroup and its parents set, under `root` (/sys/fs/cgroup); `self` is
 * the text of /proc/self/cgroup. SIZE_MAX when there is none. */
size_t machine_cgroup_limit(const char *self, const char *root);

#endif
