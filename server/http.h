/* The network side: the only file that knows libmicrohttpd.
 *
 * The library's own threads parse requests and call into exchanges (server/exchange.h). Two
 * registers, one lock: every open connection (so that a client that drips its request can be cut
 * off: the library's timer only sees inactivity), and every sleeping exchange (waiting for a job,
 * or an event stream with nothing to say).
 *
 * Rules the library's version asks for: only the connection whose callback runs is put to sleep;
 * it is listed after that, so it cannot be woken before; only the main thread wakes, once, by
 * taking it off the list; answers are queued by the handler called afterwards. Stopping with a
 * sleeping connection aborts the process, so http_release wakes all and lets none sleep again, and
 * http_stop waits for that. New connections are taken to the end, and told that the daemon stops: the
 * library's own way to take no more aborts now and then (MHD_quiesce_daemon against its epoll threads).
 *
 *     http_open → http_tick …, http_wake … → http_release → (http_sleeping() == 0)
 *     → http_stop
 *
 * Threads: every function here from main.
 */
#ifndef ENGRAM_HTTP_H
#define ENGRAM_HTTP_H

#include "daemon_int.h"

struct http;

/* Opens the socket of config->listen ("HOST:PORT"; port 0: any) and fills d->hosts. Refuses an
 * address that is not loopback while no tokens are in use. Nothing is answered before http_start. */
struct http *http_open(struct daemon *d, struct err *e) MUST_CHECK;
bool http_start(struct http *h, struct err *e) MUST_CHECK;
const char *http_address(const struct http *h); /* "127.0.0.1:8642" as bound */

void http_wake(struct http *h);    /* wake who can go on */
void http_tick(struct http *h);    /* the same, deadlines, heartbeats, clients that left */
void http_release(struct http *h); /* wake everybody for the last time */
size_t http_sleeping(struct http *h);
size_t http_visits(struct http *h); /* requests not yet answered to the last byte */
void http_stop(struct http *h);    /* nobody may sleep; or never started; NULL is fine */

#endif
