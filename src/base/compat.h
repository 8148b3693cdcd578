/*
 * compat.h
 *		The one place that knows server versions apart.
 *
 * PostgreSQL 15 is the platform; what 16, 17 and 18 changed under us is named here and nowhere else.
 */
#ifndef CQRS_COMPAT_H
#define CQRS_COMPAT_H

#if PG_VERSION_NUM < 150000
#error "cqrs needs PostgreSQL 15 or newer (NULLS NOT DISTINCT, MERGE, pg_get_querydef)"
#endif

/* 16 sets the visibility of SQL entry points itself; on 15 they leak unless said so. */
#if PG_VERSION_NUM < 160000
#define CQRS_HAS_SHMEM_REQUEST_HOOK 1
#endif

#endif							/* CQRS_COMPAT_H */
