/*
 * base/attempt.c
 *		Work in a subtransaction, whose failure is a value and not an error.
 *
 * Wants a transaction.  Memory and resource owner are afterwards as they were; the error is in CurrentMemoryContext.
 */
#include "postgres.h"

#include "access/xact.h"
#include "base/attempt.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

/*
 * cqrs_attempt runs a function in a subtransaction.
 */
ErrorData *
cqrs_attempt(void (*work) (void *), void *argument, bool keep)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	CommandCounterIncrement();	/* what was changed in catalogs is to be known before a subtransaction changes more */
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		work(argument);
		MemoryContextSwitchTo(context);
		if (keep)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}
