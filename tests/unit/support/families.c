#include "families.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FOLDER "tests/golden/families"

bool golden_only_logits(const struct golden *g) { return json_get(g->expected, "only_logits")->boolean; }

static int a_model(const struct dirent *d) { return d->d_name[0] != '.' && !strchr(d->d_name, '.'); }

static void none_is_missing(struct dirent **folder, int n)
{
    for (size_t i = 0; family_at(i); i++) {
        int k = 0;
        while (k < n && strcmp(folder[k]->d_name, family_at(i)->name) != 0) k++;
        if (k == n) fail_msg("%s has no model of %s", FOLDER, family_at(i)->name);
    }
}

static void check_one(const char *name, const char *weights, bool whole, void (*check)(struct golden *g), bool *twin)
{
    struct golden g;
    golden_open_family(&g, name, weights);
    assert_string_equal(g.model->arch.family, json_get(g.expected, "family")->text);
    *twin = json_get(g.expected, "twin")->boolean;
    if (!whole || !golden_only_logits(&g)) check(&g);
    golden_close(&g);
}

void families_each(bool whole, void (*check)(struct golden *g))
{
    struct dirent **folder;
    int n = scandir(FOLDER, &folder, a_model, alphasort);
    none_is_missing(folder, n);
    for (int i = 0; i < n; i++) {
        bool twin;
        check_one(folder[i]->d_name, NULL, whole, check, &twin);
        if (twin) check_one(folder[i]->d_name, "twin.gguf", whole, check, &twin);
        free(folder[i]);
    }
    free(folder);
}
