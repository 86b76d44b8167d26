/*
 * shadow.h - copies of a projection's tables in a schema of their own, which its
 * handler finds in place of the tables.
 *
 *	shadow = evs_shadow_create(projection, "evsource_shadow", false);
 *	evs_shadow_enter(shadow);
 *	... dispatch batches to shadow->projection ...
 *	evs_shadow_leave();
 *
 * What is done with the copies is the caller's business: verify.c and try.c roll
 * them back.
 */
#ifndef EVS_SHADOW_H
#define EVS_SHADOW_H

#include "evsource.h"
#include "projection.h"

#include "nodes/pg_list.h"

/* A table of the projection, and its copy. */
typedef struct EvsShadowTable
{
	char	   *name;			/* qualified, as the projection has it */
	char	   *copy;			/* qualified */
	Oid			relid;			/* of the table */
} EvsShadowTable;

typedef struct EvsShadow
{
	char	   *schema;			/* that holds the copies */
	EvsProjection *projection;	/* the projection, but that it writes the copies */
	List	   *tables;			/* of EvsShadowTable */
} EvsShadow;

/*
 * The projection as a struct of its own, to be changed: it shares texts with the
 * original, and nothing of what running it has found out.
 */
extern EvsProjection *evs_shadow_projection(const EvsProjection *projection);

/*
 * Create the schema, and in it an empty copy of each table of the projection:
 * columns, defaults, constraints and indexes, but no foreign keys, triggers,
 * grants or policies.  The copies belong to the projection's owner; logged says
 * whether they shall survive a crash.  All in CurrentMemoryContext.
 *
 * Errors: 55000 when the projection has no tables, 42P01 when one is gone, 0A000
 * for two of the same name and for what is no ordinary table.
 */
extern EvsShadow *evs_shadow_create(const EvsProjection *projection, const char *schema,
									bool logged);

/* The same for copies that are there already. */
extern EvsShadow *evs_shadow_open(const EvsProjection *projection, const char *schema);

/*
 * From here on, a statement that reads or writes one of the tables that have
 * copies is an error (0A000): whoever runs it did not take the name from the
 * search_path.  Ends with evs_shadow_leave() or the (sub)transaction's abort.
 */
extern void evs_shadow_enter(const EvsShadow *shadow);
extern void evs_shadow_leave(void);

extern void evs_shadow_init(void);

#endif							/* EVS_SHADOW_H */
