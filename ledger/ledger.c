/* Opening and closing: the directory, its lock, the writer, the readers. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "migrate.h"
#include "objects.h"
#include "store.h"

enum { START_CHECK = 1000 /* newest entries whose links are checked at start */ };

/* Tables that are history; the writer itself cannot change their rows. */
static const char *const append_only[] = {"migration", "chain", "genesis",  "model",
                                          "delta",     "run",   "revision", "revision_tensor",
                                          "prune",     "artefact", NULL};

int64_t now_us(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void ledger_new_id(const char *prefix, char out[ID_TEXT])
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz"; /* 32, none alike */
    uint8_t random[24];
    size_t n = strlen(prefix);
    assert(n + 1 + sizeof random < ID_TEXT);
    ssize_t got = getrandom(random, sizeof random, 0);
    assert(got == sizeof random && "small reads of getrandom do not fail");
    if (got != sizeof random) __builtin_trap();
    memcpy(out, prefix, n);
    out[n++] = '_';
    for (size_t i = 0; i < sizeof random; i++) out[n++] = digits[random[i] & 31];
    out[n] = '\0';
}

/* ---- the directory --------------------------------------------------------------------------- */

static char *path_in(const char *dir, const char *name)
{
    struct buf b = {0};
    buf_printf(&b, "%s/%s", dir, name);
    return buf_detach(&b);
}

static int lock_directory(const char *dir, struct err *e)
{
    char *path = path_in(dir, "lock");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        (void)err_set(e, ERR_IO, "cannot open %s: %s", path, strerror(errno));
    else if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        (void)err_set(e, ERR_CONFLICT, "%s is in use by another engramd", dir);
        (void)close(fd);
        fd = -1;
    }
    mem_drop(path);
    return fd;
}

/* SQLite gives its log and index files the mode of the database: make that private first. */
static bool create_file(const char *dir, const char *path, struct err *e)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return err_set(e, ERR_IO, "cannot create %s: %s", path, strerror(errno));
    bool ok = fchmod(fd, 0600) == 0 || err_set(e, ERR_IO, "cannot make %s private", path);
    (void)close(fd);
    int folder = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) {
        if (ok && fsync(folder) != 0)
            ok = err_set(e, ERR_IO, "cannot sync %s: %s", dir, strerror(errno));
        (void)close(folder);
    }
    return ok;
}

/* ---- start ----------------------------------------------------------------------------------- */

static bool quick_check(struct db *db, struct err *e)
{
    struct stmt *row;
    if (!db_one(db, e, &row, "PRAGMA quick_check(1)", NULL, 0)) return false;
    bool ok = row && strcmp(col_text(row, 0), "ok") == 0;
    if (!ok)
        (void)err_set(e, ERR_CORRUPT, "the ledger database is damaged: %s",
                      row ? col_text(row, 0) : "no answer");
    stmt_done(row);
    return ok;
}

static bool check_tail(struct store *s, struct err *e)
{
    struct chain_walk w = {0};
    if (!db_int(s->db, e, &w.to, "SELECT max(seq) FROM chain", NULL, 0)) return false;
    w.from = w.to > START_CHECK ? w.to - START_CHECK + 1 : 1;
    if (w.from > 1) {
        struct stmt *row;
        if (!DB_ONE(s->db, e, &row, "SELECT hash FROM chain WHERE seq = ?", a_int(w.from - 1)))
            return false;
        if (row) (void)col_hash(row, 0, w.last);
        stmt_done(row);
    }
    return chain_check(s, &w, e) && (!*w.problem || err_set(e, ERR_CORRUPT, "%s", w.problem));
}

static bool write_genesis(struct chain *c, struct err *e)
{
    char id[ID_TEXT];
    uint8_t nonce[SHA256_BYTES];
    ledger_new_id("ledger", id);
    if (getrandom(nonce, sizeof nonce, 0) != sizeof nonce)
        return err_set(e, ERR_IO, "no random bytes: %s", strerror(errno));
    return DB_RUN(c->s->db, e, "INSERT INTO genesis (entry, id, nonce) VALUES (?, ?, ?)",
                  a_int(c->next), a_text(id), a_hash(nonce)) &&
           chain_seal(c, "genesis", id, "", "engramd", false, e);
}

/* Every ledger begins with a random number of its own, so that no two chains share an entry. */
static bool begin_chain(struct store *s, struct err *e)
{
    struct chain c;
    bool ok = db_begin(s->db, e) && chain_open(&c, s, e) && (c.next > 1 || write_genesis(&c, e)) &&
              db_commit(s->db, e);
    db_rollback(s->db);
    return ok;
}

static bool start(struct ledger *l, const char *path, struct err *e)
{
    if (!create_file(l->s.dir, path, e) || !(l->s.db = db_open(path, DB_WRITER, e))) return false;
    if (!quick_check(l->s.db, e) || !migrate(l->s.db, migrations, n_migrations, path, e))
        return false;
    char problem[512] = "";
    if (!migrate_schema(l->s.db, migrations, n_migrations, problem, e)) return false;
    if (*problem) return err_set(e, ERR_CORRUPT, "%s", problem);
    db_guard(l->s.db, append_only);
    return objects_prepare(l->s.dir, e) && check_tail(&l->s, e) && begin_chain(&l->s, e);
}

struct ledger *ledger_open(const char *dir, struct err *e)
{
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        (void)err_set(e, ERR_IO, "cannot make %s: %s", dir, strerror(errno));
        return NULL;
    }
    int fd = lock_directory(dir, e);
    if (fd < 0) return NULL;
    struct ledger *l = mem_new(sizeof *l);
    l->lock_fd = fd;
    l->s.dir = mem_text(dir);
    char *path = path_in(dir, "ledger.db");
    bool ok = start(l, path, e) || err_while(e, "opening the ledger in %s", dir);
    mem_drop(path);
    if (ok) return l;
    ledger_close(l);
    return NULL;
}

void ledger_close(struct ledger *l)
{
    struct err ignored; /* what is not moved now is moved at the next start */
    if (!l) return;
    if (l->s.db) (void)!db_checkpoint(l->s.db, true, &ignored);
    db_close(l->s.db);
    (void)close(l->lock_fd);
    mem_drop(l->s.dir);
    mem_drop(l);
}

bool ledger_checkpoint(struct ledger *l, struct err *e)
{
    return db_checkpoint(l->s.db, false, e);
}

/* ---- readers --------------------------------------------------------------------------------- */

bool store_open_reader(struct store *s, const char *dir, struct err *e)
{
    char *path = path_in(dir, "ledger.db");
    s->dir = mem_text(dir);
    if (access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR))
        (void)err_set(e, ERR_IO, "there is no ledger in %s", dir);
    else if (!(s->db = db_open(path, DB_READER, e))) (void)err_while(e, "reading the ledger in %s", dir);
    mem_drop(path);
    return s->db != NULL;
}

struct ledger_reader *ledger_reader_open(const char *dir, struct err *e)
{
    struct ledger_reader *r = mem_new(sizeof *r);
    bool open = store_open_reader(&r->s, dir, e);
    if (open && migrate_check(r->s.db, migrations, n_migrations, e)) return r;
    if (open) (void)err_while(e, "reading the ledger in %s", dir);
    ledger_reader_close(r);
    return NULL;
}

void ledger_reader_close(struct ledger_reader *r)
{
    if (!r) return;
    db_close(r->s.db);
    mem_drop(r->s.dir);
    mem_drop(r);
}
