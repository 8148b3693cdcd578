/*
 * outbox/order.c
 *		Puts records into the order in which their changes happened.
 *
 * Triggers fire after the statement that changed the rows, and what they change in turn is captured at once: a trigger that fires before ours and updates
 * the row just written has its update captured before that write.  Commands tell the true order; within one the order of capture stands.
 *
 * Works on the records of one nesting level that are written together.  The buffer sees to it that a change and what its own triggers do to the same row are;
 * but where triggers change rows that the statement has changed, too, and that are not those they fired for, a transaction larger than the buffer may come
 * out of order across chunks.  Who needs the order of such changes goes by command.  Allocates in CurrentMemoryContext and frees it.
 */
#include "postgres.h"

#include "outbox/parts.h"

/* Where a record is. */
typedef struct Place
{
	CommandId	command;
	const char *record;
	Size		length;
} Place;

/*
 * compare_places orders by command, then as captured.
 */
static int
compare_places(const void *left, const void *right)
{
	const Place *l = left;
	const Place *r = right;

	if (l->command != r->command)
		return l->command < r->command ? -1 : 1;
	return l->record < r->record ? -1 : l->record > r->record;
}

/*
 * count_records returns how many records there are.
 */
static Size
count_records(const char *records, const char *end)
{
	Size		count = 0;

	for (; records < end; count++)
		records = cqrs_record_skip(records, NULL, NULL);
	return count;
}

/*
 * cqrs_order_records orders the records in 'length' bytes by command.
 */
void
cqrs_order_records(char *records, Size length)
{
	const char *at = records;
	Size		count = count_records(records, records + length);
	Place	   *places = MemoryContextAllocHuge(CurrentMemoryContext, Max(count, 1) * sizeof(Place));
	char	   *ordered = MemoryContextAllocHuge(CurrentMemoryContext, Max(length, 1));
	char	   *to = ordered;

	for (Size i = 0; i < count; i++)
	{
		places[i].record = at;
		at = cqrs_record_skip(at, NULL, &places[i].command);
		places[i].length = at - places[i].record;
	}
	qsort(places, count, sizeof(Place), compare_places);
	for (Size i = 0; i < count; i++)
	{
		memcpy(to, places[i].record, places[i].length);
		to += places[i].length;
	}
	memcpy(records, ordered, length);
	pfree(ordered);
	pfree(places);
}
