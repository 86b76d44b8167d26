/*
 * shadow.h - the tables in which the next version of a read model is built.
 */
#ifndef EVS_SHADOW_H
#define EVS_SHADOW_H

#include "evsource.h"
#include "projection.h"

/*
 * Is it a name that the schema of a shadow may have?  What fails while it is built is
 * on record under it, so that no projection may be called so.
 */
extern bool evs_shadow_is_name(const char *name);

/*
 * Why the projection's tables cannot have a shadow, as a sentence without its
 * end; NULL when they can.  building: asked for one that is filled by the handler
 * alone, not for one that was in use.
 */
extern const char *evs_shadow_obstacle(EvsProjection *projection, bool building);

/*
 * Make it: tables of the same shape in a schema of their own, whose name is
 * returned, and their shape.  They are members of the extension, so no dump has them, and DROP
 * EXTENSION drops them.  Only the tables' owner may use them, and whoever the
 * handler runs as, until they are exchanged.
 */
extern char *evs_shadow_create(EvsProjection *projection, char **shape);

/* The role that the handler runs as: this one, which owns the projection, or its own owner. */
extern Oid	evs_shadow_builder(const EvsProjection *projection, Oid owner);

/* Execute statements that make such tables, whatever the session's settings are, as a role. */
extern void evs_shadow_execute(List *statements, const char *role);

/*
 * Drop it with all that is in it.  A schema that is not evsource's stays.  Error:
 * 2BP01 when somebody has built on it.
 */
extern void evs_shadow_drop(const char *schema);

/* What the tables would be made of in a schema: equal as long as nobody changes them. */
extern char *evs_shadow_shape(List *tables, const char *schema);

/* Is all of it there? */
extern bool evs_shadow_exists(List *tables, const char *schema);

/*
 * The projection, with the shadow first in its search_path.  The handler's
 * tables are then those of the shadow, unless it names them with their schema.
 */
extern EvsProjection *evs_shadow_redirect(const EvsProjection *projection, const char *schema);

/*
 * Who reads or writes a table has locked it; so has who draws from a sequence.  Look
 * whether this transaction has locked one of these tables or their sequences, in
 * whatever mode, and note the first; looking needs no
 * catalog, so that it is possible after an error.  Those that were locked against
 * readers before the watch began may be locked so again, unnoticed.
 */
typedef struct EvsShadowWatch
{
	List	   *names;			/* what they are and how they are called */
	List	   *relations;		/* their OIDs, in the same order */
	bool		taken;			/* they were locked against readers, by ourselves */
	const char *touched;		/* NULL: none was locked when we looked */
} EvsShadowWatch;

extern void evs_shadow_watch(EvsShadowWatch *watch, List *tables);
extern bool evs_shadow_touched(EvsShadowWatch *watch);

/*
 * The tables, those of the shadow, and the sequences and TOAST tables of both, in the
 * order in which they are locked.
 */
extern List *evs_shadow_relations(List *tables, const char *schema);

/* Lock them, against readers, too. */
extern void evs_shadow_lock(List *tables, const char *schema);

/*
 * What is locked, against readers, too, when it is dropped, in the order in which it is
 * locked: the tables that it refers to, and what is in it.
 */
extern List *evs_shadow_dropped(const char *schema);

/* The other tables that the tables refer to: locked against writers when it is made. */
extern List *evs_shadow_referenced(List *tables);

/* Exchange what is in them.  The caller has locked them. */
extern void evs_shadow_swap(List *tables, const char *schema);

#endif							/* EVS_SHADOW_H */
