/* Which paths a request may name: those under --models-dir, after every symbolic link is followed.
 *
 * A relative path is taken from that directory. Of a model that is a directory, its entries too must
 * lie under it, so that no link inside leads out. Outside the directory nothing is told apart: what
 * is there and what is not are refused alike.
 *
 * The check is of the moment; whoever can write under the directory is trusted with it.
 *
 * Pure but for the file system: any thread.
 */
#ifndef ENGRAM_MODEL_PATH_H
#define ENGRAM_MODEL_PATH_H

#include "core/base/mem.h"

/* The resolved path (free with mem_drop), or NULL. dir NULL: no path is allowed. */
char *model_path(const char *dir, const char *path, struct err *e) MUST_CHECK;

#endif
