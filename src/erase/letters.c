/*
 * erase/letters.c
 *		Dead letters of what is erased: they hold the events themselves, beyond the outbox.
 *
 * Wants the locks of the versions that they belong to (settle.c).  What waited behind one that goes waits for nothing any more, until it is retried.
 */
#include "postgres.h"

#include "base/spi.h"
#include "catalog/pg_type.h"
#include "erase/parts.h"

/*
 * erase runs the statement that deletes letters, as the system, and sees to those that waited behind them.
 */
static void
erase(const char *sql, Oid *types, Datum *values)
{
	CqrsIdentity identity;

	cqrs_identity_enter_system(&identity);
	cqrs_spi_connect();
	if (cqrs_spi_run_args(sql, 2, types, values, NULL) > 0)
		cqrs_spi_run("UPDATE cqrs_internal.dead_letter SET behind = NULL WHERE behind IS NOT NULL "
					 "AND NOT EXISTS (SELECT FROM cqrs_internal.dead_letter d WHERE d.id = dead_letter.behind)");
	cqrs_spi_finish();
	cqrs_identity_leave(&identity);
}

/*
 * cqrs_letters_erase_aggregate erases the dead letters of an aggregate's events.
 */
void
cqrs_letters_erase_aggregate(text *type, text *id)
{
	Oid			types[] = {TEXTOID, TEXTOID};
	Datum		values[] = {PointerGetDatum(type), PointerGetDatum(id)};

	erase("DELETE FROM cqrs_internal.dead_letter WHERE (event).kind = 'event' AND (event).aggregate_type = $1 "
		  "AND (event).aggregate_id = $2", types, values);
}

/*
 * cqrs_letters_erase_rows erases the dead letters of a source's rows that have the key's values, before the change or after it.
 */
void
cqrs_letters_erase_rows(Oid source, Jsonb *key)
{
	Oid			types[] = {REGCLASSOID, JSONBOID};
	Datum		values[] = {ObjectIdGetDatum(source), JsonbPGetDatum(key)};

	erase("DELETE FROM cqrs_internal.dead_letter WHERE (event).source = $1 AND EXISTS ("
		  "SELECT FROM (VALUES ((event).old_row), ((event).new_row)) r (image) WHERE image IS NOT NULL AND NOT EXISTS ("
		  "SELECT FROM pg_catalog.jsonb_each_text($2) k WHERE image ->> k.key IS DISTINCT FROM k.value))", types, values);
}
