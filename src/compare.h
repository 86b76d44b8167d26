/*
 * compare.h - in what two versions of a read model differ.
 */
#ifndef EVS_COMPARE_H
#define EVS_COMPARE_H

#include "evsource.h"

#include "access/htup.h"
#include "access/tupdesc.h"
#include "storage/itemptr.h"
#include "utils/array.h"

/* One difference.  Its values live until the report returns. */
typedef struct EvsDifference
{
	const char *relation;		/* the table, NULL: it is about states */
	text	   *key;			/* NULL: the table has none */
	Jsonb	   *one;			/* NULL: only the other version has it */
	Jsonb	   *other;
	text	   *one_text;		/* of a row that has a key: what one does not tell apart */
	HeapTuple	key_row;		/* of a table: NULL or the values of the key, from */
	TupleDesc	key_desc;		/* column EVS_KEY_COLUMN on */
} EvsDifference;

#define EVS_KEY_COLUMN	5

typedef void (*EvsReportDifference) (void *argument, const EvsDifference *difference);

/*
 * Compare two tables of the same columns, as their owner, with the active
 * snapshot.  A row is known by the table's primary key; where there is none,
 * each row that one of them has and the other has not is a difference.  Columns
 * that are filled from a sequence or by a default that is another one each time
 * are left out, and those of ignored (NULL: none).  Reports at most so many
 * differences, in the order of the key, and returns how many.
 */
extern int64 evs_compare_tables(const char *owner, Oid relid, const char *name,
								const char *one, const char *other,
								ArrayType *ignored, int64 limit,
								EvsReportDifference report, void *argument);

/*
 * A row of a table that is found by the primary key of a difference, as often as
 * one likes.  In CurrentMemoryContext, with which it goes.
 */
typedef struct EvsRowFinder EvsRowFinder;

extern EvsRowFinder *evs_row_finder(const char *owner, Oid relid, const char *table,
									ArrayType *ignored, const EvsDifference *difference);

/* What it is now; false: there is none.  Written anew, it has another ctid or xmin. */
typedef struct EvsRowFound
{
	ItemPointerData ctid;
	TransactionId xmin;
	Jsonb	   *content;		/* without what is not compared */
	text	   *text;			/* what that does not tell apart */
} EvsRowFound;

extern bool evs_row_find(EvsRowFinder *finder, EvsRowFound *found);

/* The same for the saved states of two projections, with the active snapshot. */
extern int64 evs_compare_states(const char *one, const char *other,
								ArrayType *ignored, int64 limit,
								EvsReportDifference report, void *argument);

/* Do two states have the same content? */
extern bool evs_same_state(Jsonb *one, Jsonb *other, ArrayType *ignored);

#endif							/* EVS_COMPARE_H */
