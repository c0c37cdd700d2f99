/* Options of the program: one table (server/config.def) for the command line, the --config file
 * and --help.
 *
 *     engramd serve --model m.gguf --data d        --name value or --name=value
 *
 * The command line wins over the file, the file over the defaults. Unknown names, a value out of
 * range, an option of another command and an option given twice (but for a list) are refused with a
 * sentence. The environment is never read.
 *
 * Ownership: texts belong to the config; config_release frees them. Constant after parsing: any
 * thread.
 */
#ifndef ENGRAM_CONFIG_H
#define ENGRAM_CONFIG_H

#include "core/base/mem.h"

enum command { COMMAND_NONE, COMMAND_HELP, COMMAND_VERSION, COMMAND_SERVE, COMMAND_VERIFY,
               COMMAND_EXPORT };

struct config_list { /* in the order given */
    char **value;
    size_t n;
};

struct config {
    enum command command;
    enum command about; /* of COMMAND_HELP: the one that is asked about, or COMMAND_NONE for all */
#define TEXT(field, name, def, commands, arg, help) char *field;
#define LIST(field, name, commands, arg, help) struct config_list field;
#define NUMBER(field, name, def, least, most, commands, unit, help) int64_t field;
#define FLAG(field, name, commands, help) bool field;
#define SIZE(field, name, least, commands, help) int64_t field;
#include "config.def"
#undef TEXT
#undef LIST
#undef NUMBER
#undef FLAG
#undef SIZE
};

bool config_parse(struct config *c, int argc, char **argv, struct err *e) MUST_CHECK;
void config_release(struct config *c);
void config_help(enum command about, struct buf *out);

/* A --model is PATH, or NAME=PATH when what stands before its first `=` holds no `/` (so ./a=b is a
 * path). Returns the path, inside the option; the name is "" where none is given. */
enum { CONFIG_NAME = 128 };
const char *config_model(const char *option, char name[CONFIG_NAME], struct err *e) MUST_CHECK;

/* threads, with 0 resolved to the machine's cores. */
int config_threads(const struct config *c);

#endif
