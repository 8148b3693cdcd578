/*
 * base/blame.c
 *		Whose fault an error is, told by its SQLSTATE.
 *
 * In doubt it is the work's: what is parked or halted for it is seen by a person, what is tried again for ever may not be.  So an object in use (55006) is the
 * work's: the server says so of what a session itself uses.
 */
#include "postgres.h"

#include "base/blame.h"

/* A snapshot that is too old; versions of the server from 17 on have no name for it. */
#define SNAPSHOT_TOO_OLD MAKE_SQLSTATE('7', '2', '0', '0', '0')

/*
 * cqrs_blame tells whose fault an error is.
 */
CqrsBlame
cqrs_blame(const ErrorData *error)
{
	switch (error->sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
			return CQRS_BLAME_OTHERS;
		case ERRCODE_DATA_CORRUPTED:
		case ERRCODE_INDEX_CORRUPTED:
		case SNAPSHOT_TOO_OLD:
			return CQRS_BLAME_SERVER;
	}
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK):
		case ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION):
			return CQRS_BLAME_OTHERS;
		case ERRCODE_TO_CATEGORY(ERRCODE_CONNECTION_EXCEPTION):
		case ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES):
		case ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR):
			return CQRS_BLAME_SERVER;
	}
	return CQRS_BLAME_WORK;
}

/*
 * cqrs_blame_names tells whether an error is about what a statement names.
 */
bool
cqrs_blame_names(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION);
}
