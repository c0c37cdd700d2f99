/* When does an answer say the target? Composition (NFC), case folding, white space and punctuation
 * at the edges do not count; inside they do; a prefix must end where the word does. */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "probes/match.h"
#include "support/golden.h"

struct row {
    const char *answer, *target;
    bool match, prefix;
};

static void check(const char *answer, size_t n, const struct row *row)
{
    struct err e = {0};
    struct match m = {true, true};
    char *exact = malloc(n + 1); /* no NUL behind it: what is read past the end shows under ASan */
    memcpy(exact, answer, n);
    must(answer_match(exact, n, row->target, strlen(row->target), &m, &e), e);
    if (m.match != row->match || m.prefix_match != row->prefix)
        fail_msg("\"%s\" against \"%s\": match %d, prefix %d", row->answer, row->target, m.match, m.prefix_match);
    free(exact);
}

static void check_all(const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) check(rows[i].answer, strlen(rows[i].answer), &rows[i]);
}
#define CHECK(rows) check_all(rows, sizeof rows / sizeof *rows)

static void test_equal(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"Paris", "Paris", true, true},
        {" Paris", "Paris", true, true},
        {"\n\tParis \r\n", "Paris", true, true},
        {"paris", "PARIS", true, true},
        {" Paris.", "Paris", true, true},
        {"Paris", " Paris!", true, true},
        {"\"Paris.\"", "Paris", true, true},
        {" \" Paris . \" ", "Paris", true, true},      /* edges may mix */
        {"“Paris”", "Paris", true, true},
        {"«Paris»", "Paris", true, true},
        {"¿París?", "parís", true, true},
        {"(New York)", "new york", true, true},
        {"— Paris —", "Paris", true, true},
        {"\xc2\xa0Paris\xe3\x80\x80", "Paris", true, true}, /* no-break and ideographic space */
        {"東京。", "東京", true, true},
        {"U.S.A.", "U.S.A", true, true},
        {"1,234", "1,234", true, true},
        {"London", "Paris", false, false},
        {"", "Paris", false, false},
        {"...", "Paris", false, false},
        {"Par", "Paris", false, false},
        {"París", "Paris", false, false},               /* accents count */
        {"USA", "U.S.A.", false, false},                /* punctuation inside counts */
        {"O'Neil", "O\xe2\x80\x99Neil", false, false},  /* and so does its kind */
        {"$5", "5", false, false},                      /* a currency sign is no punctuation */
        {"NewYork", "New York", false, false},
        {"the Paris", "Paris", false, false},
    };
    CHECK(rows);
}

static void test_unicode_forms(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"São Paulo", "Sa\xcc\x83o Paulo", true, true},              /* ã composed, decomposed */
        {"Sa\xcc\x83o Paulo", "SÃO PAULO", true, true},
        {"STRASSE", "Straße", true, true},                           /* folding, not lower case */
        {"ΟΔΟΣ", "οδος", true, true},                                /* final sigma */
        {"\xe2\x84\xab", "Å", true, true},                           /* Angstrom sign */
        {"\xea\xb0\x80", "\xe1\x84\x80\xe1\x85\xa1", true, true},    /* Hangul, composed from two */
        {"МОСКВА", "Москва", true, true},
        {"①", "1", false, false},                                    /* C, not KC: no compatibility */
        {"ﬁ", "fi", true, true},                                     /* but folding expands ligatures */
        {"e\xcc\x81", "e", false, false},                            /* an accent goes on with the letter */
    };
    CHECK(rows);
}

static void test_prefix(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"Paris, the capital of France", "Paris", false, true},
        {"Paris is", "Paris", false, true},
        {"\"Paris\" he said", "Paris", false, true},
        {"New York City", "New York", false, true},
        {"Paris-based", "Paris", false, true},
        {"Paris\nLondon", "Paris", false, true},
        {"Paris's", "Paris", false, true},
        {"Paris\xf0\x9f\x99\x82", "Paris", false, true}, /* a symbol is no part of a word */
        {"Paris=Paris", "Paris", false, true},
        {"5€", "5", false, true},
        {"東京。 日本", "東京", false, true},
        {"Parisian", "Paris", false, false},
        {"Paris2", "Paris", false, false},
        {"New Yorkers", "New York", false, false},
        {"12", "1", false, false},
        {"東京都", "東京", false, false},
        {"Παρίσια", "Παρίσι", false, false},
        {"Is it Paris", "Paris", false, false},
    };
    CHECK(rows);
}

/* A generation is bytes: it may break off inside a character, or hold bytes that are none. */
static void test_broken_bytes(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"Paris\xe2\x80", "Paris", false, true},
        {"Paris \xf0\x9f\x99", "Paris", false, true},
        {"Paris\xff\xfe", "Paris", false, true},
        {"\xc3", "Paris", false, false},
        {"\x80\x80\x80", "Paris", false, false},
        {"Par\xc3is", "Paris", false, false},
        {"caf\xc3", "café", false, false},
        {"\xed\xa0\x80Paris", "Paris", false, false}, /* a surrogate half */
    };
    CHECK(rows);
    check("Paris\0x", 7, &(struct row){"Paris<NUL>x", "Paris", false, true});
    check("Paris\0", 6, &(struct row){"Paris<NUL>", "Paris", false, true});
}

/* A target of nothing but punctuation is said by that punctuation. */
static void test_punctuation_alone(void **state)
{
    (void)state;
    static const struct row rows[] = {
        {"!", "!", true, true},       {" !\t", "!", true, true},     {" ?!", " ?! ", true, true}, {"。", "。", true, true},
        {"!?", "!", false, true},     {"! Stop", "!", false, true},  {"!Stop", "!", false, true},
        {"", "!", false, false},      {"?", "!", false, false},      {"anything", "...", false, false},
        {"anything!", "!", false, false},
    };
    CHECK(rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal),        cmocka_unit_test(test_unicode_forms), cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_broken_bytes), cmocka_unit_test(test_punctuation_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
