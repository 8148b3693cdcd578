/*
 * worker/worker.h
 *		The processes that keep projections up to date: one launcher, and a worker in each database that has the extension.
 */
#ifndef CQRS_WORKER_H
#define CQRS_WORKER_H

#include "postgres.h"

/* Register the launcher and watch utility commands; called from _PG_init while preloading. */
extern void cqrs_worker_init(void);

/* Where the server enters the processes, by name. */
extern PGDLLEXPORT void cqrs_launcher_main(Datum main_arg);
extern PGDLLEXPORT void cqrs_worker_main(Datum main_arg);

#endif							/* CQRS_WORKER_H */
