/*
 * members.h - objects that are members of the extension without having been in its script.
 */
#ifndef EVS_MEMBERS_H
#define EVS_MEMBERS_H

#include "evsource.h"

/* Is the object, whose catalog is given, a member of evsource? */
extern bool evs_member_is_ours(Oid class, Oid object);

/*
 * Make it a member of the extension, with the grants that it has: a dump would
 * have those that came later.  As with ALTER EXTENSION ADD, a relation's types go with it.
 */
extern void evs_member_join(Oid class, Oid object);

/* Let it be none, whoever has made it one; the caller increments the command counter. */
extern void evs_member_leave(Oid class, Oid object);

#endif							/* EVS_MEMBERS_H */
