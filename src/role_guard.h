/*
 * role_guard.h - refuse to drop roles that evsource acts as, and warn when one is renamed.
 */
#ifndef EVS_ROLE_GUARD_H
#define EVS_ROLE_GUARD_H

#include "evsource.h"

#include "nodes/nodes.h"

/* Before a utility command: 2BP01 if it drops such a role, a warning if it renames one. */
extern void evs_role_guard_command(Node *statement);

#endif							/* EVS_ROLE_GUARD_H */
