/*
 * table_rows.h - the rows of a projection's tables, to and from
 * evsource.table_snapshot_rows.
 */
#ifndef EVS_TABLE_ROWS_H
#define EVS_TABLE_ROWS_H

#include "evsource.h"
#include "projection.h"

/* A table, as statements on its rows name it. */
typedef struct EvsTable
{
	char	   *name;			/* qualified */
	char	   *shape;			/* columns and types, and whether they have sequences */
	char	   *columns;		/* a, b */
	char	   *texts;			/* a::text, b::text */
	char	   *values;			/* v[1]::integer, v[2]::text */
	char	   *sequences;		/* each as ('its oid'::regclass, 'name of its column'); or NULL */
} EvsTable;

/* The projection's tables as they are now, each as an EvsTable. */
extern List *evs_table_rows_describe(const EvsProjection *projection);

/* Columns and types of them all: tables of another shape cannot take the rows. */
extern char *evs_table_rows_shape(List *tables);

/*
 * The numbers of the tables, in the order in which they are to be filled.
 * Errors: 0A000 when foreign keys go in circles.
 */
extern List *evs_table_rows_order(const EvsProjection *projection);

/*
 * Sequences are to be set as the projection's owner.
 * Errors: 42501 when that of a partition belongs to another role.
 */
extern void evs_table_rows_check_sequences(const EvsProjection *projection);

/* Store their rows, and their sequences, under a position; returns how many. */
extern int64 evs_table_rows_save(const EvsProjection *projection, int64 position,
								 List *tables);

/* Fill the tables, which are empty, with the rows stored under a position. */
extern void evs_table_rows_load(const EvsProjection *projection, int64 position);

#endif							/* EVS_TABLE_ROWS_H */
