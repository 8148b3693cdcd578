/*
 * verify/key.c
 *		Keys that users give as JSON: an object with a value for each column of the key.
 *
 * Memory is CurrentMemoryContext's.
 */
#include "postgres.h"

#include "base/names.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "verify/verify.h"

/*
 * cqrs_verify_check_keyed refuses a version whose rows nothing tells apart: handlers define it, and its columns declare no primary key.
 */
void
cqrs_verify_check_keyed(const CqrsVersion *version)
{
	if (version->nkeys == 0 && cqrs_version_is_events(version))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("version %d of projection \"%s\" has no key to compare rows by", version->number,
						cqrs_name_shown(cqrs_projection_get(version->projection, false)->view)),
				 errhint("Declare a primary key among the columns of another version.")));
}

/*
 * refuse raises for what is no key, or no array of keys.
 */
static void
refuse(const CqrsVersion *version, bool array)
{
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < version->nkeys; i++)
		appendStringInfo(&columns, "%s%s", i ? ", " : "", get_attname(version->table, version->key[i], false));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 array ? errmsg("argument \"keys\" must be a JSON array of keys") :
			 errmsg("argument \"key\" must be a JSON object that is a key"),
			 version->nkeys == 0 ? errdetail("The projection has one row, whose key is {}.") :
			 errdetail("A key is an object with a value for each of: %s.", columns.data)));
}

/*
 * is_key tells whether an object has just the key's columns: a misspelt one would be null.
 */
static bool
is_key(const CqrsVersion *version, JsonbContainer *object)
{
	if (!JsonContainerIsObject(object) || JsonContainerSize(object) != version->nkeys)
		return false;
	for (int i = 0; i < version->nkeys; i++)
	{
		char	   *name = get_attname(version->table, version->key[i], false);

		if (getKeyJsonValueFromContainer(object, name, strlen(name), NULL) == NULL)
			return false;
	}
	return true;
}

/*
 * cqrs_verify_check_keys refuses what is no array of keys of a version.
 */
void
cqrs_verify_check_keys(const CqrsVersion *version, Jsonb *keys)
{
	JsonbIterator *iterator;
	JsonbValue	value;

	if (!JB_ROOT_IS_ARRAY(keys) || JB_ROOT_IS_SCALAR(keys))
		refuse(version, true);
	iterator = JsonbIteratorInit(&keys->root);
	(void) JsonbIteratorNext(&iterator, &value, true);
	while (JsonbIteratorNext(&iterator, &value, true) == WJB_ELEM)
		if (value.type != jbvBinary || !is_key(version, value.val.binary.data))
			refuse(version, true);
}

/*
 * cqrs_verify_key_columns writes the key's columns with their types, as a function's that makes records of JSON wants them.
 */
char *
cqrs_verify_key_columns(const CqrsVersion *version)
{
	StringInfoData columns;

	initStringInfo(&columns);
	for (int i = 0; i < version->nkeys; i++)
	{
		Oid			type;
		int32		typmod;
		Oid			collation;

		get_atttypetypmodcoll(version->table, version->key[i], &type, &typmod, &collation);
		appendStringInfo(&columns, "%s%s %s", i ? ", " : "",
						 cqrs_name_identifier(get_attname(version->table, version->key[i], false)),
						 format_type_extended(type, typmod, FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY));
	}
	return columns.data;
}

/*
 * cqrs_verify_read_key makes values of a key's columns, as the current user.
 */
void
cqrs_verify_read_key(const CqrsVersion *version, Jsonb *key, Datum *values, bool *nulls)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			type = JSONBOID;
	Datum		argument = JsonbPGetDatum(key);

	if (!is_key(version, &key->root))
		refuse(version, false);
	if (version->nkeys == 0)
		return;
	cqrs_spi_connect();
	(void) cqrs_spi_run_args(psprintf("SELECT * FROM pg_catalog.jsonb_to_record($1) AS k(%s)", cqrs_verify_key_columns(version)),
							 1, &type, &argument, NULL);
	for (int i = 0; i < version->nkeys; i++)
	{
		int16		length;
		bool		by_value;
		Datum		value = cqrs_spi_datum(0, i + 1, &nulls[i]);
		MemoryContext spi = MemoryContextSwitchTo(caller);

		get_typlenbyval(get_atttype(version->table, version->key[i]), &length, &by_value);
		values[i] = nulls[i] ? (Datum) 0 : datumCopy(value, by_value, length);
		MemoryContextSwitchTo(spi);
	}
	cqrs_spi_finish();
}
