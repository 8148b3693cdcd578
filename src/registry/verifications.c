/*
 * registry/verifications.c
 *		When each version was last verified, and how many of its keys are known to have drifted.
 */
#include "postgres.h"

#include "registry/registry.h"
#include "registry/rows.h"
#include "utils/timestamp.h"

enum
{
	COL_VERSION, COL_AT, COL_DRIFTED, COL_COUNT
};

/*
 * read_verification makes a CqrsVerification of a row.
 */
static void *
read_verification(const Datum *values, const bool *nulls)
{
	CqrsVerification *row = palloc(sizeof(CqrsVerification));

	row->version = DatumGetInt32(values[COL_VERSION]);
	row->at = DatumGetTimestampTz(values[COL_AT]);
	row->drifted = DatumGetInt64(values[COL_DRIFTED]);
	return row;
}

/*
 * of_version starts a scan for the row of a version.
 */
static CqrsRowScan
of_version(int32 version)
{
	CqrsRowScan scan = {.catalog = CQRS_CAT_VERIFICATION, .index = "verification_pkey"};

	cqrs_rows_key_int4(&scan, COL_VERSION + 1, version);
	return scan;
}

/*
 * cqrs_verification_get returns what is known of a version, or NULL.
 */
CqrsVerification *
cqrs_verification_get(int32 version)
{
	CqrsRowScan scan = of_version(version);

	return cqrs_rows_read_one(&scan, read_verification);
}

/*
 * cqrs_verification_set records what is known of a version now.
 */
void
cqrs_verification_set(const CqrsVerification *verification)
{
	CqrsRowScan scan = of_version(verification->version);
	Datum		values[COL_COUNT];
	bool		nulls[COL_COUNT] = {false};

	values[COL_VERSION] = Int32GetDatum(verification->version);
	values[COL_AT] = TimestampTzGetDatum(verification->at);
	values[COL_DRIFTED] = Int64GetDatum(verification->drifted);
	if (cqrs_verification_get(verification->version) != NULL)
		cqrs_rows_update(&scan, values, nulls);
	else
		cqrs_rows_insert(CQRS_CAT_VERIFICATION, values, nulls);
}

/*
 * cqrs_verification_delete forgets what is known of a version.
 */
void
cqrs_verification_delete(int32 version)
{
	CqrsRowScan scan = of_version(version);

	(void) cqrs_rows_delete(&scan);
}
