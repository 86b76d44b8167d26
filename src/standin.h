/*
 * standin.h - copies of a projection's tables in a schema of their own, which its
 * handler finds in place of the tables.
 *
 *	standin = evs_standin_create(projection, "prefix of a schema's name");
 *	evs_standin_enter(standin);
 *	... dispatch batches to standin->projection ...
 *	evs_standin_leave();
 *
 * verify.c and try.c roll the copies back; what rebuilds a read model online makes
 * lasting ones, in shadow.c.
 */
#ifndef EVS_STANDIN_H
#define EVS_STANDIN_H

#include "evsource.h"
#include "projection.h"

#include "nodes/pg_list.h"

/* A table of the projection, and its copy. */
typedef struct EvsStandinTable
{
	char	   *name;			/* qualified, as the projection has it */
	char	   *copy;			/* qualified */
	Oid			relid;			/* of the table */
} EvsStandinTable;

typedef struct EvsStandin
{
	char	   *schema;			/* that holds the copies */
	EvsProjection *projection;	/* the projection, but that it writes the copies */
	List	   *tables;			/* of EvsStandinTable */
	bool		fires;			/* the copies have triggers that may fill another table */
} EvsStandin;

/*
 * The projection as a struct of its own, to be changed: it shares texts with the
 * original, and nothing of what running it has found out.
 */
extern EvsProjection *evs_standin_projection(const EvsProjection *projection);

/*
 * Create a schema, and in it an empty copy of each table of the projection, made
 * of the same statements as for a rebuild beside it (shadow.h), but without
 * foreign keys to other tables.  The copies belong to the projection's owner and
 * do not survive a crash.  All in CurrentMemoryContext.
 *
 * Errors: 55000 when the projection has no tables, 42P01 when one is gone, 0A000
 * for two of the same name and for what is no ordinary table.
 */
extern EvsStandin *evs_standin_create(const EvsProjection *projection, const char *prefix);

/*
 * From here on, a statement that reads or writes one of the tables that have
 * copies is an error (0A000): whoever runs it did not take the name from the
 * search_path.  Ends with evs_standin_leave() or the (sub)transaction's abort.
 */
extern void evs_standin_enter(const EvsStandin *standin);
extern void evs_standin_leave(void);

extern void evs_standin_init(void);

#endif							/* EVS_STANDIN_H */
