/*
 * rights.h - what the current user may do, beyond the privileges on one object.
 */
#ifndef EVS_RIGHTS_H
#define EVS_RIGHTS_H

#include "evsource.h"

#include "utils/relcache.h"

/* Has the current user the rights of this role, which may be gone, or of evsource's owner? */
extern bool evs_has_rights_of(const char *role);

/* For the detail of an error that only the owner does not get: who that is. */
extern int	evs_errdetail_owner(const char *owner);

/* May the current user read every event, so that an error may name any? */
extern bool evs_may_read_all(void);

/* May the current user read this stored event? */
extern bool evs_may_read_event(Relation events, const EvsEvent *event);

/* 42501 unless the current user could become that role; the message says what it is to own. */
extern void evs_check_new_owner(const char *what, const char *owner);

#endif							/* EVS_RIGHTS_H */
