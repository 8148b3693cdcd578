/*
 * event/upcast.c
 *		Payloads of old shapes made new: the upcasters of an event's type, one after the other.
 *
 * Asked for every event that is handled, so what upcasters there are is kept for the backend's life, and read again when they, or any function, change.
 * An upcaster runs as its owner in a security-restricted context: those whose events it sees need not trust it with more than these.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/call.h"
#include "base/spi.h"
#include "catalog/pg_proc.h"
#include "event/event.h"
#include "registry/registry.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/* An upcaster, ready to be called. */
typedef struct Step
{
	const char *type;
	int32		from_version;
	Oid			function;
	Oid			owner;			/* InvalidOid: the function is gone, or another now */
	FmgrInfo	call;
} Step;

static MemoryContext steps_memory = NULL;
static Step *steps = NULL;		/* by type and version */
static int	nsteps = 0;
static Oid	table = InvalidOid; /* whose rows they were read from */
static uint64 changes = 1;		/* of them that we were told of */
static uint64 read_at = 0;		/* how many of these had been when they were read */
static int	running = 0;		/* calls of upcasters, one within the other: meanwhile they stay as they are */

/*
 * forget_relation has upcasters read again when their table has changed.
 */
static void
forget_relation(Datum argument, Oid relation)
{
	if (relation == table || !OidIsValid(relation))
		changes++;
}

/*
 * forget_function has upcasters read again when any function has changed.
 */
static void
forget_function(Datum argument, int cache, uint32 hash)
{
	changes++;
}

/*
 * owner_of returns who owns an upcaster; InvalidOid if it is none any more.
 */
static Oid
owner_of(Oid function)
{
	HeapTuple	tuple;
	Oid			owner;

	if (!cqrs_call_fits(function))
		return InvalidOid;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * read_steps reads all upcasters, unless they are known, or one of them is running.  If it fails, or is told of a change meanwhile, they are read again.
 */
static void
read_steps(void)
{
	uint64		now = changes;
	MemoryContext caller;
	List	   *upcasters;
	ListCell   *cell;

	if (read_at == now || running > 0)
		return;
	if (steps_memory == NULL)
	{
		CacheRegisterRelcacheCallback(forget_relation, (Datum) 0);
		CacheRegisterSyscacheCallback(PROCOID, forget_function, (Datum) 0);
		steps_memory = AllocSetContextCreate(CacheMemoryContext, "cqrs upcasters", ALLOCSET_SMALL_SIZES);
	}
	nsteps = 0;
	MemoryContextReset(steps_memory);
	table = cqrs_registry_relation(CQRS_CAT_UPCASTER);
	caller = MemoryContextSwitchTo(steps_memory);
	upcasters = cqrs_upcaster_list();
	steps = palloc0(sizeof(Step) * Max(list_length(upcasters), 1));
	foreach(cell, upcasters)
	{
		CqrsUpcaster *upcaster = lfirst(cell);
		Step	   *step = &steps[nsteps];

		step->type = upcaster->type;
		step->from_version = upcaster->from_version;
		step->function = upcaster->function;
		step->owner = owner_of(upcaster->function);
		if (OidIsValid(step->owner))
			fmgr_info_cxt(step->function, &step->call, steps_memory);
		nsteps++;
	}
	MemoryContextSwitchTo(caller);
	read_at = now;
}

/*
 * find_step returns the upcaster from that version of a type; NULL if there is none.
 */
static Step *
find_step(const char *type, int32 version)
{
	int			low = 0;
	int			high = nsteps;

	while (low < high)
	{
		int			middle = (low + high) / 2;
		int			order = strcmp(steps[middle].type, type);

		if (order == 0)
			order = steps[middle].from_version < version ? -1 : steps[middle].from_version > version;
		if (order == 0)
			return &steps[middle];
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return NULL;
}

/*
 * cqrs_event_schema_version returns the version of a payload's shape, as metadata says.
 */
int32
cqrs_event_schema_version(const Jsonb *metadata)
{
	JsonbContainer *root = unconstify(JsonbContainer *, &metadata->root);
	JsonbValue	value;
	int32		version;
	bool		error = false;

	if (getKeyJsonValueFromContainer(root, CQRS_SCHEMA_VERSION, strlen(CQRS_SCHEMA_VERSION), &value) == NULL)
		return 1;
	if (value.type != jbvNumeric)
		return 0;
	version = numeric_int4_opt_error(value.val.numeric, &error);
	if (error || version < 1)
		return 0;
	return DatumGetBool(DirectFunctionCall2(numeric_eq, NumericGetDatum(int64_to_numeric(version)),
											NumericGetDatum(value.val.numeric))) ? version : 0;
}

/*
 * call_step calls an upcaster.  One within another is looked up anew: it may be the same, and what a function keeps is for one call at a time.
 */
static Jsonb *
call_step(Step *step, Jsonb *payload)
{
	FmgrInfo	nested;
	Jsonb	   *volatile result = NULL;

	if (running > 0)
		fmgr_info(step->function, &nested);
	running++;
	PG_TRY();
	{
		result = cqrs_call(running > 1 ? &nested : &step->call, payload);
	}
	PG_FINALLY();
	{
		running--;
	}
	PG_END_TRY();
	return result;
}

/*
 * run_step has an upcaster make the next version of a payload, as its owner.
 */
static Jsonb *
run_step(Step *step, Jsonb *payload)
{
	CqrsIdentity saved;
	Jsonb	   *result;

	if (!OidIsValid(step->owner))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("upcaster of event type \"%s\" from version %d is gone", step->type, step->from_version),
				 errhint("Drop it with cqrs.drop_upcaster and create another.")));
	cqrs_identity_enter(&saved, step->owner, NIL);
	result = call_step(step, payload);
	cqrs_identity_leave(&saved);
	if (result == NULL || !JB_ROOT_IS_OBJECT(result))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("upcaster %s returned no JSON object", format_procedure(step->function)),
				 errdetail("It brings payloads of event type \"%s\" from version %d to the next.", step->type, step->from_version)));
	return result;
}

/*
 * cqrs_upcast_any tells whether there are upcasters: who hands many events to handlers need not ask for each if there are none.
 */
bool
cqrs_upcast_any(void)
{
	read_steps();
	return nsteps > 0;
}

/*
 * cqrs_upcast returns a payload in the newest shape of its event type.
 *
 * Errors: whatever an upcaster raises, 42883 one that is gone, 22023 one that returns no object.
 */
Jsonb *
cqrs_upcast(const char *event_type, Jsonb *payload, const Jsonb *metadata)
{
	int32		version;
	Step	   *step;

	read_steps();
	if (nsteps == 0)
		return payload;
	version = Max(cqrs_event_schema_version(metadata), 1);
	while ((step = find_step(event_type, version++)) != NULL)
	{
		payload = run_step(step, payload);
		read_steps();
	}
	return payload;
}
