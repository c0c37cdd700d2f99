/* strftime for a day that the caller gives. It has no hour: what asks for one is refused. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "state.h"

struct day {
    int year, month, day, weekday, yearday; /* month and day from 1, weekday from Monday 0 */
};

static bool leap(int year) { return (year % 4 == 0 && year % 100 != 0) || year % 400 == 0; }

static bool read_day(const char *date, struct day *d)
{
    static const char shape[] = "dddd-dd-dd";
    static const int before[] = {0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365};
    if (strlen(date) != sizeof shape - 1) return false;
    for (size_t i = 0; shape[i]; i++)
        if (shape[i] == '-' ? date[i] != '-' : date[i] < '0' || date[i] > '9') return false;
    d->year = (date[0] - '0') * 1000 + (date[1] - '0') * 100 + (date[2] - '0') * 10 + date[3] - '0';
    d->month = (date[5] - '0') * 10 + date[6] - '0';
    d->day = (date[8] - '0') * 10 + date[9] - '0';
    if (d->year < 1000 || d->month < 1 || d->month > 12) return false;
    int days = before[d->month] - before[d->month - 1] + (d->month == 2 && leap(d->year));
    d->yearday = before[d->month - 1] + (d->month > 2 && leap(d->year)) + d->day;
    int past = d->year - 1, since = past * 365 + past / 4 - past / 100 + past / 400 + d->yearday - 1;
    d->weekday = since % 7; /* 1 January of the year 1 was a Monday */
    return d->day >= 1 && d->day <= days;
}

bool jinja_is_date(const char *text)
{
    struct day d;
    return read_day(text, &d);
}

static const char *const weekdays[] = {"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"};
static const char *const months[] = {"January", "February", "March", "April", "May", "June", "July", "August",
                                     "September", "October", "November", "December"};

/* What one directive prints; false for one we do not have. */
static bool directive(const struct day *d, char c, bool unpadded, char out[16])
{
    const struct {
        char c;
        int width; /* of a number */
        int number;
        const char *word;
        int letters;
    } rows[] = {
        {'d', 2, d->day, NULL, 0},       {'m', 2, d->month, NULL, 0},
        {'Y', 4, d->year, NULL, 0},      {'y', 2, d->year % 100, NULL, 0},
        {'j', 3, d->yearday, NULL, 0},   {'u', 1, d->weekday + 1, NULL, 0},
        {'w', 1, (d->weekday + 1) % 7, NULL, 0},
        {'A', 0, 0, weekdays[d->weekday], 16}, {'a', 0, 0, weekdays[d->weekday], 3},
        {'B', 0, 0, months[d->month - 1], 16}, {'b', 0, 0, months[d->month - 1], 3},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if (rows[i].c != c || (unpadded && rows[i].word)) continue;
        if (rows[i].word) (void)snprintf(out, 16, "%.*s", rows[i].letters, rows[i].word);
        else (void)snprintf(out, 16, "%0*d", unpadded ? 1 : rows[i].width, rows[i].number);
        return true;
    }
    return false;
}

bool date_text(struct run *r, struct text format, struct value *out)
{
    struct day d;
    struct sink s = {0};
    bool ok = read_day(r->in->date, &d);
    assert(ok);
    for (size_t i = 0; ok && i < format.len; i++) {
        char made[16] = "%";
        if (format.s[i] != '%') {
            sink_text(&s, text_part(format, i, i + 1));
            continue;
        }
        bool unpadded = i + 2 < format.len && format.s[i + 1] == '-';
        char c = ++i < format.len ? format.s[i += unpadded] : '\0';
        ok = (c == '%' && !unpadded) || (c && directive(&d, c, unpadded, made)) ||
             run_refuse(r, "strftime_now with %%%c", c > ' ' ? c : '?');
        sink_own(&s, made);
    }
    if (ok) return sink_value(r, &s, out);
    sink_release(&s);
    return false;
}
