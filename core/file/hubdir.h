/* A model directory as a hub lays it out: config.json, the tokenizer's documents, and weights in
 * model.safetensors or in the shards that model.safetensors.index.json names. Where both exist
 * the single file is the model, as transformers has it.
 *
 * A shard's name is a plain file name: the index cannot reach outside the directory. Every tensor
 * the index places in a shard must be there; no name may appear in two shards.
 *
 * Documents are JSON trees in the directory's arena, NULL where the file is absent. Immutable
 * after open; owned by whoever opened it. Used by modelfile.c only.
 */
#ifndef ENGRAM_HUBDIR_H
#define ENGRAM_HUBDIR_H

#include "infile.h"
#include "tensor_list.h"

enum hub_doc { DOC_CONFIG, DOC_TOKENIZER, DOC_TOKENIZER_CONFIG, DOC_GENERATION_CONFIG, DOC_COUNT };

struct hubdir {
    struct arena arena;
    const struct json *doc[DOC_COUNT];
    const char *chat_template; /* or NULL */
    struct infile *files;      /* the shards, sorted by name */
    size_t n_files;
    struct tensor_list tensors;
};

struct hubdir *hubdir_open(const char *path, struct err *e) MUST_CHECK;
void hubdir_close(struct hubdir *d);

#endif
