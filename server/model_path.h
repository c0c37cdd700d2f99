/* Which paths a request may name: those that --model named at the start, and those under --models-dir,
 * after every symbolic link is followed.
 *
 * A relative path is taken from that directory, without one from where the daemon was started. What
 * --model named is the operator's choice and may lie anywhere, so that a model which was unloaded can
 * come back. Of any other model that is a directory, its entries too must lie under --models-dir, so
 * that no link inside leads out. Outside the directory nothing is told apart: what is there and what is
 * not are refused alike.
 *
 * The check is of the moment; whoever can write under the directory is trusted with it.
 *
 * Pure but for the file system: any thread.
 */
#ifndef ENGRAM_MODEL_PATH_H
#define ENGRAM_MODEL_PATH_H

#include "config.h"

/* The resolved path (free with mem_drop), or NULL. */
char *model_path(const struct config *c, const char *path, struct err *e) MUST_CHECK;

#endif
