#include <assert.h>
#include <malloc.h>
#include <stdio.h>

#include "config.h"
#include "export.h"
#include "serve.h"
#include "verify_cmd.h"

static int version_main(const struct config *c)
{
    (void)c;
    return puts("engramd " ENGRAM_VERSION) < 0;
}

static int help_main(const struct config *c)
{
    struct buf b = {0};
    config_help(c->about, &b);
    int rc = b.failed || fputs(b.data, stdout) < 0;
    buf_release(&b);
    return rc;
}

static int (*const commands[])(const struct config *c) = {
    [COMMAND_HELP] = help_main,     [COMMAND_VERSION] = version_main, [COMMAND_SERVE] = serve_main,
    [COMMAND_VERIFY] = verify_main, [COMMAND_EXPORT] = export_main,
};
static_assert(sizeof commands / sizeof *commands == COMMAND_EXPORT + 1, "one function a command");

/* What is freed goes back to the machine, so that what the daemon holds is what its works hold: large
 * blocks are mappings of their own, however many have come and gone. Once, before any thread. */
enum { OWN_MAPPING = 1 << 20 };

int main(int argc, char **argv)
{
    (void)mallopt(M_MMAP_THRESHOLD, OWN_MAPPING);
    struct config c;
    struct err e = {0};
    if (!config_parse(&c, argc, argv, &e)) {
        (void)fprintf(stderr, "engramd: %s\n", e.text);
        return 2;
    }
    assert(c.command != COMMAND_NONE);
    int rc = commands[c.command](&c);
    config_release(&c);
    return rc;
}
