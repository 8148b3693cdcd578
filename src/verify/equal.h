/*
 * verify/equal.h
 *		When two rows of one type count as equal; private to verify/.
 */
#ifndef CQRS_VERIFY_EQUAL_H
#define CQRS_VERIFY_EQUAL_H

#include "postgres.h"

#include "access/htup.h"
#include "access/tupdesc.h"

extern bool cqrs_verify_rows_equal(TupleDesc desc, HeapTuple left, HeapTuple right);

#endif							/* CQRS_VERIFY_EQUAL_H */
