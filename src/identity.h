/*
 * identity.h - run something as a projection's owner, with its search_path, and
 * come back.  On error the transaction's (sub)abort restores everything.
 */
#ifndef EVS_IDENTITY_H
#define EVS_IDENTITY_H

#include "evsource.h"

typedef struct EvsIdentity
{
	Oid			saved_user;
	int			saved_security_context;
	int			guc_nest_level;
} EvsIdentity;

extern void evs_identity_enter(EvsIdentity *identity, const char *owner,
							   const char *search_path);
extern void evs_identity_enter_role(EvsIdentity *identity, Oid role,
									const char *search_path);

/*
 * Then, for code that makes read models and states: what it computes does not
 * depend on the settings of whoever calls it, so that a replay comes to the same.
 */
extern void evs_identity_pin_settings(void);

extern void evs_identity_leave(EvsIdentity *identity);

#endif							/* EVS_IDENTITY_H */
