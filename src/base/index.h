/*
 * base/index.h
 *		Entries of a row in indexes that somebody else has made.
 */
#ifndef CQRS_INDEX_H
#define CQRS_INDEX_H

#include "postgres.h"

#include "access/genam.h"
#include "executor/tuptable.h"
#include "utils/relcache.h"

/*
 * Add a row, which is in its table already, to an index of any kind: partial, of expressions, or being built.  'check' is for a unique one; false only if that
 * is UNIQUE_CHECK_PARTIAL and the key may be there already.  Wants a snapshot if expressions do.
 */
extern bool cqrs_index_insert(Relation index, Relation heap, TupleTableSlot *slot, IndexUniqueCheck check, bool unchanged);

#endif							/* CQRS_INDEX_H */
