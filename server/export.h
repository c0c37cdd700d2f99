/* `engramd export`: write a view of a model as a hub-style safetensors directory, with the
 * configuration and tokenizer files of the source, so that other programs load what this one
 * serves (core/export/hub_write.h). Only reads the ledger, also while a daemon serves it; refuses a directory
 * that holds anything.
 *
 * Exit status: 0 written, 1 refused or failed (one sentence on stderr).
 *
 * Threads: main, no daemon running in this process.
 */
#ifndef ENGRAM_EXPORT_H
#define ENGRAM_EXPORT_H

#include "config.h"

int export_main(const struct config *c);

#endif
