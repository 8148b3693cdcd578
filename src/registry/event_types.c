/*
 * registry/event_types.c
 *		Rows of event types, of how many events of each there were, and of their upcasters.
 *
 * Leaves who may change them, and what versions an upcaster may be of, to event/.
 */
#include "postgres.h"

#include "access/xact.h"
#include "registry/registry.h"
#include "registry/rows.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/timestamp.h"

enum
{
	TYPE_TYPE, TYPE_VERSION, TYPE_OWNER, TYPE_DESCRIPTION, TYPE_COUNT
};

enum
{
	COUNT_TYPE, COUNT_COUNT, COUNT_FIRST, COUNT_LAST, COUNT_COLUMNS
};

enum
{
	UPCASTER_TYPE, UPCASTER_FROM, UPCASTER_FUNCTION, UPCASTER_COUNT
};

/*
 * read_type makes a CqrsEventType of a row.
 */
static void *
read_type(const Datum *values, const bool *nulls)
{
	CqrsEventType *type = palloc0(sizeof(CqrsEventType));

	type->type = TextDatumGetCString(values[TYPE_TYPE]);
	type->version = DatumGetInt32(values[TYPE_VERSION]);
	type->owner = *DatumGetName(values[TYPE_OWNER]);
	type->description = cqrs_rows_string(values, nulls, TYPE_DESCRIPTION);
	return type;
}

/*
 * form_type makes the row of a CqrsEventType.
 */
static void
form_type(const CqrsEventType *type, Datum *values, bool *nulls)
{
	memset(nulls, 0, sizeof(bool) * TYPE_COUNT);
	values[TYPE_TYPE] = CStringGetTextDatum(type->type);
	values[TYPE_VERSION] = Int32GetDatum(type->version);
	values[TYPE_OWNER] = NameGetDatum(&type->owner);
	values[TYPE_DESCRIPTION] = cqrs_rows_text(type->description, &nulls[TYPE_DESCRIPTION]);
}

/*
 * by_type starts a scan for one type.
 */
static CqrsRowScan
by_type(const char *type)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_EVENT_TYPE,.index = "event_type_pkey"};

	cqrs_rows_key_text(&scan, TYPE_TYPE + 1, type);
	return scan;
}

/*
 * cqrs_event_type_find returns a type that somebody has described, or NULL.
 */
CqrsEventType *
cqrs_event_type_find(const char *type)
{
	CqrsRowScan scan = by_type(type);

	return cqrs_rows_read_one(&scan, read_type);
}

/*
 * cqrs_event_type_insert adds a type.
 */
void
cqrs_event_type_insert(const CqrsEventType *type)
{
	Datum		values[TYPE_COUNT];
	bool		nulls[TYPE_COUNT];

	form_type(type, values, nulls);
	cqrs_rows_insert(CQRS_CAT_EVENT_TYPE, values, nulls);
}

/*
 * cqrs_event_type_update writes a type back.
 */
void
cqrs_event_type_update(const CqrsEventType *type)
{
	CqrsRowScan scan = by_type(type->type);
	Datum		values[TYPE_COUNT];
	bool		nulls[TYPE_COUNT];

	form_type(type, values, nulls);
	cqrs_rows_update(&scan, values, nulls);
}

/*
 * read_count makes a CqrsEventCount of a row.
 */
static void *
read_count(const Datum *values, const bool *nulls)
{
	CqrsEventCount *count = palloc(sizeof(CqrsEventCount));

	count->type = TextDatumGetCString(values[COUNT_TYPE]);
	count->count = DatumGetInt64(values[COUNT_COUNT]);
	count->first_at = DatumGetTimestampTz(values[COUNT_FIRST]);
	count->last_at = DatumGetTimestampTz(values[COUNT_LAST]);
	return count;
}

/*
 * cqrs_event_count_add adds to what is known of a type.
 */
void
cqrs_event_count_add(const CqrsEventCount *count)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_EVENT_COUNT,.index = "event_count_pkey"};
	CqrsEventCount *before;
	Datum		values[COUNT_COLUMNS];
	bool		nulls[COUNT_COLUMNS] = {0};

	cqrs_rows_key_text(&scan, COUNT_TYPE + 1, count->type);
	before = cqrs_rows_read_one(&scan, read_count);
	values[COUNT_TYPE] = CStringGetTextDatum(count->type);
	values[COUNT_COUNT] = Int64GetDatum(count->count + (before ? before->count : 0));
	values[COUNT_FIRST] = TimestampTzGetDatum(before ? Min(before->first_at, count->first_at) : count->first_at);
	values[COUNT_LAST] = TimestampTzGetDatum(before ? Max(before->last_at, count->last_at) : count->last_at);
	if (before)
		cqrs_rows_update(&scan, values, nulls);
	else
		cqrs_rows_insert(CQRS_CAT_EVENT_COUNT, values, nulls);
}

/*
 * read_upcaster makes a CqrsUpcaster of a row.
 */
static void *
read_upcaster(const Datum *values, const bool *nulls)
{
	CqrsUpcaster *upcaster = palloc(sizeof(CqrsUpcaster));

	upcaster->type = TextDatumGetCString(values[UPCASTER_TYPE]);
	upcaster->from_version = DatumGetInt32(values[UPCASTER_FROM]);
	upcaster->function = DatumGetObjectId(values[UPCASTER_FUNCTION]);
	return upcaster;
}

/*
 * cqrs_upcaster_list returns all upcasters, by type and version.
 */
List *
cqrs_upcaster_list(void)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_UPCASTER,.index = "upcaster_pkey"};

	return cqrs_rows_read(&scan, read_upcaster);
}

/*
 * cqrs_upcaster_insert adds an upcaster.
 */
void
cqrs_upcaster_insert(const CqrsUpcaster *upcaster)
{
	Datum		values[UPCASTER_COUNT];
	bool		nulls[UPCASTER_COUNT] = {0};

	values[UPCASTER_TYPE] = CStringGetTextDatum(upcaster->type);
	values[UPCASTER_FROM] = Int32GetDatum(upcaster->from_version);
	values[UPCASTER_FUNCTION] = ObjectIdGetDatum(upcaster->function);
	cqrs_rows_insert(CQRS_CAT_UPCASTER, values, nulls);
	CacheInvalidateRelcacheByRelid(cqrs_registry_relation(CQRS_CAT_UPCASTER));
	CommandCounterIncrement();
}

/*
 * cqrs_upcaster_delete deletes an upcaster.
 */
void
cqrs_upcaster_delete(const CqrsUpcaster *upcaster)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_UPCASTER,.index = "upcaster_pkey"};

	cqrs_rows_key_text(&scan, UPCASTER_TYPE + 1, upcaster->type);
	cqrs_rows_key_int4(&scan, UPCASTER_FROM + 1, upcaster->from_version);
	cqrs_rows_delete(&scan);
	CacheInvalidateRelcacheByRelid(cqrs_registry_relation(CQRS_CAT_UPCASTER));
	CommandCounterIncrement();
}
