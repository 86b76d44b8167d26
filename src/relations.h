/*
 * relations.h - who owns a relation, what goes with it, when its triggers fire, who has it
 * locked; hear of relations that change.
 */
#ifndef EVS_RELATIONS_H
#define EVS_RELATIONS_H

#include "evsource.h"

#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "utils/inval.h"
#include "utils/reltrigger.h"

/*
 * Instead of CacheRegisterRelcacheCallback(): call the function, with 0, for
 * every relation that changes, and with InvalidOid when any may have.
 */
extern void evs_relations_watch(RelcacheCallbackFunction callback);

/* The owner of a relation that is there. */
extern Oid	evs_relation_owner(Oid relation);

/* Is the trigger one of those that fire in this session? */
extern bool evs_relation_trigger_fires(const Trigger *trigger);

/* The TOAST table of a relation; InvalidOid when it has none, or is gone. */
extern Oid	evs_relation_toast(Oid relation);

/*
 * Has this session the relation of this database locked, in one of the modes from first to
 * last?  Reads no catalog: it may be one that was dropped.
 */
extern bool evs_relation_is_locked(Oid relation, LOCKMODE first, LOCKMODE last);

/* The tables that its foreign keys refer to. */
extern List *evs_relation_references(Oid relation);

#endif							/* EVS_RELATIONS_H */
