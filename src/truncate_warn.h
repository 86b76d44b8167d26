/*
 * truncate_warn.h - projections that take events of streams whose beginning is gone.
 */
#ifndef EVS_TRUNCATE_WARN_H
#define EVS_TRUNCATE_WARN_H

#include "evsource.h"
#include "projection.h"

/*
 * Warn of the streams whose beginning a new projection never has; or one that is altered
 * (old: what it was), of those that it may take more events from now.
 */
extern void evs_truncate_warn(const EvsProjection *projection, const EvsProjection *old);

#endif							/* EVS_TRUNCATE_WARN_H */
