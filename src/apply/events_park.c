/*
 * apply/events_park.c
 *		Which aggregates wait: an event that concerns one of them is not applied, whatever its handler is, but written down behind what failed.
 *
 * An aggregate goes by a key: a JSON array of its type and its id.  A row's type is the number of its source, since tables get other names.  A key of the type
 * alone is of all its aggregates: so a TRUNCATE of a captured table, and every change of one without a primary key, waits behind any of them, and all wait
 * behind it.
 *
 * Wants no transaction.  Memory is CurrentMemoryContext's, at the time when the set is made.
 */
#include "postgres.h"

#include "apply/events_parts.h"
#include "common/hashfn.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"

#define ANY_MARK "any "			/* before the key of a type: one of its aggregates waits */

typedef struct Entry
{
	char	   *key;
	int64		letter;
} Entry;

struct CqrsParked
{
	MemoryContext memory;
	HTAB	   *entries;
	List	   *added;			/* keys, in the order of their addition */
};

/*
 * hash_key hashes what an entry's key points to.
 */
static uint32
hash_key(const void *key, Size size)
{
	const char *string = *(char *const *) key;

	return hash_bytes((const unsigned char *) string, strlen(string));
}

/*
 * compare_keys compares what entries' keys point to.
 */
static int
compare_keys(const void *left, const void *right, Size size)
{
	return strcmp(*(char *const *) left, *(char *const *) right);
}

/*
 * cqrs_parked_make makes an empty set.
 */
CqrsParked *
cqrs_parked_make(void)
{
	CqrsParked *parked = palloc0(sizeof(CqrsParked));
	HASHCTL		control = {.keysize = sizeof(char *),.entrysize = sizeof(Entry),.hash = hash_key,.match = compare_keys};

	parked->memory = AllocSetContextCreate(CurrentMemoryContext, "cqrs parked", ALLOCSET_DEFAULT_SIZES);
	control.hcxt = parked->memory;
	parked->entries = hash_create("cqrs parked", 64, &control, HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	return parked;
}

/*
 * type_key returns the key of an aggregate's type, of the key of the aggregate or the type.
 */
static char *
type_key(const char *key)
{
	const char *end = key + 1;

	if (*end == '"')
		for (end++; *end != '"'; end++)
			if (*end == '\\')
				end++;
	end += strcspn(end, ",]");
	return psprintf("%.*s]", (int) (end - key), key);
}

/*
 * add_key adds a key, unless it waits already.
 */
static void
add_key(CqrsParked *parked, const char *key, int64 letter)
{
	bool		found;
	Entry	   *entry;
	MemoryContext caller = MemoryContextSwitchTo(parked->memory);

	entry = hash_search(parked->entries, &key, HASH_ENTER, &found);
	if (!found)
	{
		entry->key = pstrdup(key);
		entry->letter = letter;
		parked->added = lappend(parked->added, entry->key);
	}
	MemoryContextSwitchTo(caller);
}

/*
 * cqrs_parked_add has aggregates wait behind a letter; those that wait already go on to wait behind theirs.
 */
void
cqrs_parked_add(CqrsParked *parked, List *aggregates, int64 letter)
{
	ListCell   *cell;

	foreach(cell, aggregates)
	{
		char	   *any = psprintf(ANY_MARK "%s", type_key(lfirst(cell)));

		add_key(parked, lfirst(cell), letter);
		add_key(parked, any, letter);
	}
}

/*
 * letter_of finds the letter that a key waits behind; 0: none.
 */
static int64
letter_of(const CqrsParked *parked, const char *key)
{
	Entry	   *entry = hash_search(parked->entries, &key, HASH_FIND, NULL);

	return entry ? entry->letter : 0;
}

/*
 * cqrs_parked_behind finds the first letter that stands in the way of one who concerns these aggregates; 0: none.
 */
int64
cqrs_parked_behind(const CqrsParked *parked, List *aggregates)
{
	int64		first = 0;
	ListCell   *cell;

	foreach(cell, aggregates)
	{
		char	   *key = lfirst(cell);
		char	   *type = type_key(key);
		int64		letters[3];

		letters[0] = letter_of(parked, key);
		letters[1] = letter_of(parked, type);
		letters[2] = strcmp(key, type) == 0 ? letter_of(parked, psprintf(ANY_MARK "%s", type)) : 0;
		for (int i = 0; i < (int) lengthof(letters); i++)
			if (letters[i] != 0 && (first == 0 || letters[i] < first))
				first = letters[i];
	}
	return first;
}

/*
 * cqrs_parked_empty tells whether no aggregate waits.
 */
bool
cqrs_parked_empty(const CqrsParked *parked)
{
	return parked->added == NIL;
}

/*
 * cqrs_parked_mark returns what cqrs_parked_undo goes back to.
 */
int
cqrs_parked_mark(const CqrsParked *parked)
{
	return list_length(parked->added);
}

/*
 * cqrs_parked_undo takes back what was added since a mark.
 */
void
cqrs_parked_undo(CqrsParked *parked, int mark)
{
	for (int i = mark; i < list_length(parked->added); i++)
	{
		char	   *key = list_nth(parked->added, i);

		(void) hash_search(parked->entries, &key, HASH_REMOVE, NULL);
	}
	parked->added = list_truncate(parked->added, mark);
}

/*
 * make_key makes the key of the aggregate that an event found concerns, given its id; with a null id of its type.
 */
static char *
make_key(const TupleTableSlot *found, int id)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfoChar(&key, '[');
	if (found->tts_isnull[FOUND_SOURCE])
		escape_json(&key, TextDatumGetCString(found->tts_values[EVENT_AGGREGATE_TYPE]));
	else
		appendStringInfo(&key, "%d", DatumGetInt32(found->tts_values[FOUND_SOURCE]));
	if (!found->tts_isnull[id])
	{
		appendStringInfoString(&key, ", ");
		escape_json(&key, TextDatumGetCString(found->tts_values[id]));
	}
	appendStringInfoChar(&key, ']');
	return key.data;
}

/*
 * cqrs_parked_aggregates returns the keys of what an event found concerns: its aggregate, and the one that it was before if its key has changed.
 */
List *
cqrs_parked_aggregates(TupleTableSlot *found)
{
	List	   *keys;

	slot_getallattrs(found);
	keys = list_make1(make_key(found, EVENT_AGGREGATE_ID));
	if (!found->tts_isnull[FOUND_OLD_ID])
		keys = lappend(keys, make_key(found, FOUND_OLD_ID));
	return keys;
}
